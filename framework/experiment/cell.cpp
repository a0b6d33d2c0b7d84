#include "experiment/cell.h"

#include <algorithm>

#include "core/digest.h"
#include "core/text.h"
#include "experiment/plan.h"
#include "experiment/transforms.h"
#include "store/result_file.h"

namespace grinqh {

namespace {

namespace fs = std::filesystem;

bool needs_calibration(const ExperimentSpec& spec) {
  return std::ranges::any_of(spec.methods, [](const MethodSpec& method) {
    const ValidationText validation = validation_of(method);
    return method.calibrates() || (validation.windows > 0 && validation.text.empty());
  });
}

std::string_view to_string(CalibrationInputs inputs) {
  return inputs == CalibrationInputs::quantized ? "quantized" : "float";
}

Json evaluation_identity(const EvaluationSpec& evaluation) {
  return {{"kind", evaluation.evaluator.name},
          {"options", evaluation.evaluator.options},
          {"text", digest_of(read_file(evaluation.text.string(), "text"))},
          {"protocol", evaluation.protocol},
          {"context", evaluation.context},
          {"phase", to_string(evaluation.phase)},
          {"prefill_tokens", evaluation.prefill_tokens},
          {"reference", evaluation.reference}};
}

}  // namespace

ModelStage::ModelStage(const ExperimentSpec& spec, const fs::path& folder)
    : model(load_model(folder)), device(spec.device) {
  const ModelText tokens_of(model);
  for (const EvaluationSpec& evaluation : spec.evaluations) {
    const std::string source = evaluation.text.string();
    const std::vector<int32_t> tokens = tokens_of.encode(read_file(source, "text"), source);
    windows.push_back(cut_windows(evaluation.protocol, tokens, evaluation.context, model.config,
                                  tokens_of.adds_bos(), source));
  }
  const CalibrationSpec& calibration = spec.calibration;
  const bool calibrates = needs_calibration(spec);
  if (calibrates && calibration.context > model.config.max_context)
    bad_input("[calibration]: context = {}: allowed is 2 to {}, the model's max_position_embeddings",
              calibration.context, model.config.max_context);
  calibration_identity = {{"windows", calibration.windows},
                          {"context", calibration.context},
                          {"inputs", to_string(calibration.inputs)},
                          {"gradient_windows", calibration.gradient_windows},
                          {"gradient_context", calibration.gradient_context}};
  if (calibration.text == "self") {
    calibration_identity["text"] = "self";
    calibration_identity["seed"] = spec.seed;
  } else if (calibrates) {
    const std::string text = read_file(calibration.text, "calibration text");
    calibration_identity["text"] = digest_of(text);
    calibration_tokens = tokens_of.encode(text, calibration.text);
    if (static_cast<int64_t>(calibration_tokens.size()) < calibration.context)
      bad_input("{}: the text has {} tokens, one calibration window needs {}", calibration.text,
                calibration_tokens.size(), calibration.context);
  }
}

const Transformer& ModelStage::transformer() const {
  if (!transformer_) transformer_ = make_transformer(model, device);
  return *transformer_;
}

void add_device(const DeviceChoice& device, Json& identity) {
  if (device.device == Device::cpu) return;
  identity["device"] = to_string(device.device);
  identity["arithmetic"] = device.arithmetic == Arithmetic::native ? "bf16" : "fp32";
}

std::string Cell::name() const {
  return fmt::format("{} {}{}{}", stage->model.name(), method->quantizer.name,
                     method->label.empty() ? "" : " ", method->label);
}

bool Cell::finished() const {
  if (!fs::exists(path)) return false;
  try {
    const Result result = read_result(path);
    const auto status = result.texts.find("status");
    return result.digest == digest && status != result.texts.end() && status->second == "ok";
  } catch (const BadInput&) {
    return false;  // damaged: it is computed again
  }
}

Json quantization_identity(const ExperimentSpec& spec, const ModelStage& stage, const MethodSpec& method) {
  Json identity{{"schema", kResultSchema},
                {"model", stage.model.digest},
                {"quantizer", method.quantizer.name},
                {"options", method.quantizer.options},
                {"layers", method.layers},
                {"seed", spec.seed}};
  if (!method.transforms.empty()) identity["transform"] = to_json(method.transforms);
  if (method.calibrates()) identity["calibration"] = stage.calibration_identity;
  add_device(spec.device, identity);
  return identity;
}

std::vector<Cell> make_cells(const ExperimentSpec& spec,
                             const std::vector<std::unique_ptr<ModelStage>>& stages, const fs::path& folder) {
  std::vector<Json> evaluations;
  for (const EvaluationSpec& evaluation : spec.evaluations)
    evaluations.push_back(evaluation_identity(evaluation));
  std::vector<Cell> cells;
  for (const auto& stage : stages)
    for (const MethodSpec& method : spec.methods) {
      Json identity = quantization_identity(spec, *stage, method);
      identity["policy"] = method.policy.name;
      identity["policy_options"] = method.policy.options;
      identity["phase_prefill"] = method.prefill_level;
      if (const Json validation = validation_identity(method); !validation.is_null()) {
        identity["validation"] = validation;
        identity["calibration"] = stage->calibration_identity;
      }
      for (size_t e = 0; e < spec.evaluations.size(); ++e) {
        identity["evaluation"] = evaluations[e];
        Cell cell{stage.get(),
                  &method,
                  &spec.evaluations[e],
                  &stage->windows[e],
                  static_cast<int64_t>(cells.size()),
                  digest_of(identity.dump()),
                  {}};
        cell.path = folder / fmt::format("{}-{}-{}.h5", slug(stage->model.name()),
                                         slug(method.quantizer.name), cell.digest.substr(0, 12));
        cells.push_back(std::move(cell));
      }
    }
  return cells;
}

std::string cell_toml(const ExperimentSpec& spec, const Cell& cell) {
  Json method{{"quantizer", cell.method->quantizer.name}, {"layers", cell.method->layers}};
  if (cell.method->prefill_level != kFullLevel) method["phase_prefill"] = cell.method->prefill_level;
  method["transform"] = to_json(cell.method->transforms);
  method.update(cell.method->quantizer.options);
  Json policy{{"name", cell.method->policy.name}};
  policy.update(cell.method->policy.options);
  method["policy"] = policy;
  const EvaluationSpec& evaluation = *cell.evaluation;
  Json evaluate{
      {"kind", evaluation.evaluator.name},    {"text", evaluation.text.string()},
      {"protocol", evaluation.protocol},      {"context", evaluation.context},
      {"phase", to_string(evaluation.phase)}, {"reference", evaluation.reference ? "float" : "none"}};
  if (evaluation.phase == EvaluationPhase::continuation)
    evaluate["prefill_tokens"] = evaluation.prefill_tokens;
  evaluate.update(evaluation.evaluator.options);
  const CalibrationSpec& calibration = spec.calibration;
  return to_toml({{"title", spec.title},
                  {"seed", spec.seed},
                  {"device", to_string(spec.device.device)},
                  {"arithmetic", spec.device.arithmetic == Arithmetic::native ? "auto" : "fp32"},
                  {"models", Json::array({{{"path", cell.stage->model.folder.string()}}})},
                  {"calibration",
                   {{"text", calibration.text},
                    {"windows", calibration.windows},
                    {"context", calibration.context},
                    {"inputs", to_string(calibration.inputs)},
                    {"gradient_windows", calibration.gradient_windows},
                    {"gradient_context", calibration.gradient_context}}},
                  {"methods", Json::array({method})},
                  {"evaluations", Json::array({evaluate})}});
}

}  // namespace grinqh
