#include "experiment/runner.h"

#include <algorithm>
#include <chrono>
#include <set>

#include "calib/calibration_windows.h"
#include "core/device.h"
#include "core/digest.h"
#include "core/registry.h"
#include "core/text.h"
#include "experiment/plan.h"
#include "experiment/prepare.h"
#include "experiment/provenance.h"
#include "experiment/rehearsal.h"
#include "store/part_file.h"
#include "store/result_file.h"

namespace grinqh {

namespace {

class Stopwatch {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// Cells of one model whose methods quantize its weights alike.
struct QuantizationGroup {
  Json identity;
  CollectorNames kept;  // statistics that policies need, pending or not: what is cached then fits any
  std::vector<const Cell*> pending;
};

class Runner {
 public:
  Runner(const ExperimentSpec& spec, const RunOptions& options)
      : spec_(spec),
        options_(options),
        cache_(options.folder / "cache"),
        environment_(environment_provenance()) {
    for (const MethodSpec& method : spec.methods) rehearse(method);
    for (const auto& folder : spec.models) stages_.push_back(std::make_unique<ModelStage>(spec, folder));
    cells_ = make_cells(spec, stages_, options.folder);
  }

  RunOutcome run() {
    std::vector<QuantizationGroup> groups;
    for (const Cell& cell : cells_) {
      const bool pending = options_.fresh || !cell.finished();
      outcome_.reused += !pending;
      if (options_.dry_run) fmt::print("{:10} {}\n", pending ? "to compute" : "finished", cell.name());
      add_to_group(cell, pending, groups);
    }
    if (options_.dry_run) return outcome_;
    // A place that cannot be written is refused before hours of computation, not after.
    if (outcome_.reused < static_cast<int64_t>(cells_.size())) PartFile(options_.folder / "writable");
    for (const QuantizationGroup& group : groups)
      if (!group.pending.empty()) run_group(group);
    for (const Cell& cell : cells_)
      if (std::filesystem::exists(cell.path)) outcome_.results.push_back(cell.path);
    return outcome_;
  }

 private:
  void add_to_group(const Cell& cell, bool pending, std::vector<QuantizationGroup>& groups) const {
    Json identity = quantization_identity(spec_, *cell.stage, *cell.method);
    identity.erase("calibration");  // a policy that needs it changes nothing about the weights
    auto group = std::ranges::find(groups, identity, &QuantizationGroup::identity);
    if (group == groups.end()) group = groups.insert(groups.end(), {identity, {}, {}});
    group->kept.merge(Registry<PrecisionPolicy>::get()
                          .make(cell.method->policy.name, cell.method->policy.settings)
                          ->needs());
    if (pending) group->pending.push_back(&cell);
  }

  // Quantizes once, then evaluates method by method.
  void run_group(const QuantizationGroup& group) {
    CachedCalibration quantized;
    try {
      quantized = quantize(group);
    } catch (const BadInput&) {
      throw;
    } catch (const Error& error) {
      for (const Cell* cell : group.pending) record_failure(*cell, error.what());
      return;
    }
    for (auto cell = group.pending.begin(); cell != group.pending.end();) {
      const auto end = std::find_if(cell, group.pending.end(),
                                    [&](const Cell* other) { return other->method != (*cell)->method; });
      run_method({cell, end}, quantized.calibrated, quantized.seconds);
      cell = end;
    }
  }

  // From the cache if calibration had a part in it; quantizing alone is quick.
  CachedCalibration quantize(const QuantizationGroup& group) {
    const Cell& cell = *group.pending.front();
    const ModelStage& stage = *cell.stage;
    const auto quantizer =
        Registry<Quantizer>::get().make(cell.method->quantizer.name, cell.method->quantizer.settings);
    CalibrationPlan plan;
    plan.inputs = spec_.calibration.inputs;
    plan.gradient_windows = spec_.calibration.gradient_windows;
    plan.gradient_context = spec_.calibration.gradient_context;
    plan.kept = group.kept;
    plan.layers = cell.method->layers;
    const bool calibrates =
        !group.kept.empty() || !quantizer->needs().empty() || !quantizer->survey_needs().empty();
    std::string key;
    MatrixBuffer<int32_t> windows;
    if (calibrates) {
      Json identity = group.identity;
      identity["calibration"] = stage.calibration_identity;
      identity["kept"] = group.kept;
      key = digest_of(identity.dump());
      if (auto cached = cache_.load_calibration(key)) return std::move(*cached);
      windows = calibration_windows(stage, spec_.calibration.windows, spec_.calibration.context);
      plan.windows = windows.view();
    }
    const std::unique_ptr<StatisticsStore> store = cache_.statistics(statistics_key(stage));
    plan.store = store.get();
    const auto gradient_store = cache_.statistics("gradients-" + statistics_key(stage));
    plan.gradient_store = gradient_store.get();
    const Stopwatch watch;
    CachedCalibration result;
    result.calibrated = calibrate_and_quantize(stage.transformer, *quantizer, plan);
    result.seconds = watch.seconds();
    if (calibrates) cache_.save_calibration(key, result);
    return result;
  }

  // What the float model's statistics depend on.
  static std::string statistics_key(const ModelStage& stage) {
    Json identity = stage.calibration_identity;
    identity.erase("inputs");
    identity["model"] = stage.model.digest;
    return digest_of(identity.dump());
  }

  MatrixBuffer<int32_t> calibration_windows(const ModelStage& stage, int64_t windows, int64_t context) const {
    const CalibrationSpec& calibration = spec_.calibration;
    if (calibration.text != "self") {
      if (static_cast<int64_t>(stage.calibration_tokens.size()) < context)
        bad_input("{}: the text has {} tokens, one window needs {}", calibration.text,
                  stage.calibration_tokens.size(), context);
      return spread_windows(stage.calibration_tokens, windows, context);
    }
    const Json identity{
        {"model", stage.model.digest}, {"windows", windows}, {"context", context}, {"seed", spec_.seed}};
    return cache_.windows(digest_of(identity.dump()), [&] {
      return sample_windows(stage.transformer, windows, context, static_cast<uint64_t>(spec_.seed));
    });
  }

  // Lets the method's policy find its schedule on this model.
  void plan(PrecisionPolicy& policy, const MethodSpec& method, const ModelStage& stage,
            const QuantizedModel& quantized) const {
    Json identity = quantization_identity(spec_, stage, method);
    identity["calibration"] = stage.calibration_identity;
    identity["validation"] = validation_identity(method);
    identity["phase_prefill"] = method.prefill_level;
    CachedValues values(cache_, std::move(identity));
    plan_policy(
        policy, method, stage.transformer, quantized,
        {[&](int64_t windows, int64_t context) { return calibration_windows(stage, windows, context); },
         values});
  }

  // Cells of one method: they share the prepared policy.
  void run_method(std::span<const Cell* const> cells, const Calibrated& calibrated, double quantize_seconds) {
    const MethodSpec& method = *cells.front()->method;
    const ModelStage& stage = *cells.front()->stage;
    const Stopwatch watch;
    std::unique_ptr<PrecisionPolicy> policy;
    try {
      MatrixBuffer<int32_t> windows;
      if (method.calibrates())
        windows = calibration_windows(stage, spec_.calibration.windows, spec_.calibration.context);
      policy = prepare_policy(method, stage.transformer, calibrated, windows);
      plan(*policy, method, stage, calibrated.model);
    } catch (const BadInput&) {
      throw;
    } catch (const Error& error) {
      for (const Cell* cell : cells) record_failure(*cell, error.what());
      return;
    }
    const double seconds = quantize_seconds + watch.seconds();
    for (const Cell* cell : cells) {
      try {
        evaluate(*cell, calibrated.model, *policy, seconds);
      } catch (const BadInput&) {
        throw;
      } catch (const Error& error) {
        record_failure(*cell, error.what());
      }
    }
  }

  void evaluate(const Cell& cell, const QuantizedModel& quantized, const PrecisionPolicy& policy,
                double quantize_seconds) {
    const ModelStage& stage = *cell.stage;
    std::unique_ptr<ReferenceFeatures> reference;
    if (cell.evaluation->reference) {
      Digest key;
      key.add_field(stage.model.digest)
          .add(std::as_bytes(
              std::span(cell.windows->tokens.data(), static_cast<size_t>(cell.windows->tokens.size()))));
      key.add_field(std::to_string(cell.windows->context()));
      reference = cache_.features(key.hex(), stage.transformer, *cell.windows);
    }
    QuantizedLanguageModel subject(stage.transformer, quantized, &policy, cell.method->prefill_level);
    const auto evaluator =
        Registry<Evaluator>::get().make(cell.evaluation->evaluator.name, cell.evaluation->evaluator.settings);
    ResultWriter result(cell.path, cell.digest);
    write_row(cell, result);
    const Stopwatch watch;
    evaluator->run({subject, reference.get(), *cell.windows, cell.evaluation->prompt_tokens(),
                    fmt::format("[{}/{}] {}", cell.order + 1, cells_.size(), cell.name())},
                   result);
    result.scalar("stored_bits", quantized.stored_bits(), "bit");
    result.scalar("quantize_seconds", quantize_seconds, "s");
    result.scalar("evaluate_seconds", watch.seconds(), "s");
    result.text("status", "ok");
    std::set<std::string> kernels;  // that ran
    for (const auto& [id, layer] : quantized.layers) {
      const Kernel& kernel = find_kernel(layer->layout(), Device::cpu);
      kernels.insert(fmt::format("{}/{}/{}", kernel.layout, to_string(kernel.device), kernel.name));
    }
    result.provenance("kernels", join(std::vector<std::string>(kernels.begin(), kernels.end()), ", "));
    if (const Json findings = policy.findings(); !findings.is_null())
      result.provenance("policy_findings", findings.dump());
    write_provenance(cell, result);
    result.commit();
    ++outcome_.computed;
  }

  void record_failure(const Cell& cell, std::string why) {
    std::ranges::replace(why, '\n', ' ');  // one line, whoever wrote it
    fmt::print(stderr, "grinqh: {} failed: {}\n", cell.name(), why);
    ResultWriter result(cell.path, cell.digest);
    write_row(cell, result);
    result.text("status", "failed: " + why);
    write_provenance(cell, result);
    result.commit();
    ++outcome_.failed;
  }

  void write_row(const Cell& cell, ResultWriter& result) const {
    Json options = cell.method->quantizer.options;
    options["policy"] = cell.method->policy.options;
    if (cell.method->layers != std::vector<std::string>{"*"}) options["layers"] = cell.method->layers;
    if (cell.method->prefill_level != kFullLevel) options["phase_prefill"] = cell.method->prefill_level;
    result.text("model", cell.stage->model.name());
    result.text("quantizer", cell.method->quantizer.name);
    result.text("policy", cell.method->policy.name);
    result.text("options", options.dump());
    result.text("label", cell.method->label);
    result.text("device", "cpu");
    result.text("dataset", cell.evaluation->text.filename().string());
    result.text("protocol", cell.evaluation->protocol);
    result.text("phase", to_string(cell.evaluation->phase));
    result.integer("context", cell.evaluation->context);
    result.integer("seed", spec_.seed);
    result.integer("order", cell.order);
  }

  void write_provenance(const Cell& cell, ResultWriter& result) const {
    for (const auto& [key, value] : environment_) result.provenance(key, value);
    result.provenance("command", options_.command);
    result.provenance("experiment", spec_.title);
    result.provenance("resolved_toml", cell_toml(spec_, cell));
    result.provenance("model_digest", cell.stage->model.digest);
    result.provenance("text_digest", digest_of(read_file(cell.evaluation->text.string(), "text")));
    result.provenance("calibration", cell.stage->calibration_identity.dump());
  }

  const ExperimentSpec& spec_;
  const RunOptions& options_;
  ArtifactCache cache_;
  std::map<std::string, std::string> environment_;
  std::vector<std::unique_ptr<ModelStage>> stages_;
  std::vector<Cell> cells_;
  RunOutcome outcome_;
};

}  // namespace

RunOutcome run_experiment(const ExperimentSpec& spec, const RunOptions& options) {
  return Runner(spec, options).run();
}

}  // namespace grinqh
