#include "experiment/spec.h"

#include <algorithm>

#include "core/device.h"
#include "core/registry.h"
#include "core/text.h"
#include "eval/evaluator.h"
#include "model/synthetic.h"

namespace grinqh {

namespace {

namespace fs = std::filesystem;

constexpr double kMaxTokens = 1 << 24;

// Relative paths: from the working directory, then from the experiment's folder.
fs::path find_path(const Setting& setting, const std::string& key, const fs::path& folder) {
  if (!setting.value.is_string())
    bad_input("{}: {} = {}: expected a path", setting.where, key, setting.value.dump());
  const fs::path given = setting.value.get<std::string>();
  for (const fs::path& path : {given, folder / given})
    if (fs::exists(path)) return path;
  bad_input("{}: {} = \"{}\": no such file or folder, neither from the working directory nor from {}",
            setting.where, key, given.string(), folder.empty() ? "." : folder.string());
}

struct TopLevel {
  std::string title = "untitled", device = "auto", arithmetic = "auto";
  int64_t seed = 0;
  template <class V>
  void fields(V& v) {
    v("title", title, "heading of the report, and the name of the results' folder");
    v("seed", seed, Range{0, 0x1p53}, "of everything random");
    v("device", device, "auto, cpu, cuda or cuda:N");
    v("arithmetic", arithmetic, OneOf{{"auto", "bf16", "fp32"}},
      "of products on a GPU: bf16 with float32 sums (auto), or float32 throughout");
  }
};

struct CalibrationKeys {
  std::string text = "self", inputs = "quantized";
  int64_t windows = 128, context = 1024, gradient_windows = 100, gradient_context = 512;
  template <class V>
  void fields(V& v) {
    v("text", text, "a text file, or self: text drawn from the model");
    v("windows", windows, Range{1, kMaxTokens}, "number of windows");
    v("context", context, Range{2, kMaxTokens}, "tokens of a window");
    v("inputs", inputs, OneOf{{"quantized", "float"}},
      "what a block sees: output of quantized or float earlier blocks");
    v("gradient_windows", gradient_windows, Range{1, kMaxTokens},
      "at most so many of the windows, from the first on, for statistics of gradients");
    v("gradient_context", gradient_context, Range{2, kMaxTokens}, "at most so many tokens of each of them");
  }
};

struct EvaluationKeys {
  std::string text, protocol = "windows", phase = "decode", reference = "none";
  int64_t context = 1024, prefill_tokens = 0;
  template <class V>
  void fields(V& v) {
    v("text", text, "a text file");
    v("protocol", protocol, OneOf{protocols()}, "how the text becomes windows");
    v("context", context, Range{2, kMaxTokens}, "tokens of a window");
    v("phase", phase, OneOf{{"prefill", "decode", "continuation"}}, "how tokens are processed");
    v("prefill_tokens", prefill_tokens, Range{1, kMaxTokens}, "prompt of each window in phase continuation");
    v("reference", reference, OneOf{{"none", "float"}}, "float: adds KL divergence and top-1 agreement");
  }
  void validate() const {
    if (phase == "continuation" && prefill_tokens == 0)
      bad_input("phase = \"continuation\" needs prefill_tokens");
    if (phase != "continuation" && prefill_tokens != 0)
      bad_input("prefill_tokens = {} has a meaning only with phase = \"continuation\"", prefill_tokens);
    if (prefill_tokens >= context)
      bad_input("prefill_tokens = {}: allowed is 1 to {}", prefill_tokens, context - 1);
  }
};

// Splits a table's settings into the framework's (those that Keys declares) and the rest.
template <class Keys>
std::pair<Settings, Settings> split_settings(const ConfigTable& table, const std::vector<std::string>& also) {
  std::pair<Settings, Settings> parts;
  const std::vector<OptionInfo> infos = describe_options<Keys>();
  for (const auto& [key, setting] : table.settings()) {
    if (std::ranges::find(also, key) != also.end()) continue;
    const bool ours = std::ranges::find(infos, key, &OptionInfo::name) != infos.end();
    (ours ? parts.first : parts.second).emplace(key, setting);
  }
  return parts;
}

CalibrationSpec read_calibration(const ConfigTable& table, const fs::path& folder) {
  const auto keys = read_options<CalibrationKeys>(table.settings(), "[calibration]");
  CalibrationSpec spec{keys.text,
                       keys.windows,
                       keys.context,
                       keys.inputs == "float" ? CalibrationInputs::floating : CalibrationInputs::quantized,
                       keys.gradient_windows,
                       keys.gradient_context};
  if (spec.text != "self") spec.text = find_path(table.at("text"), "text", folder).string();
  return spec;
}

EvaluationSpec read_evaluation(const ConfigTable& table, const fs::path& folder) {
  const Setting& kind = table.at("kind");
  if (!kind.value.is_string()) bad_input("{}: kind = {}: expected a name", kind.where, kind.value.dump());
  EvaluationSpec spec;
  spec.evaluator.name = kind.value.get<std::string>();
  const auto& entry = Registry<Evaluator>::get().at(spec.evaluator.name, kind.where);
  std::vector<std::string> known{"kind"};
  for (const OptionInfo& option : describe_options<EvaluationKeys>()) known.push_back(option.name);
  for (const OptionInfo& option : entry.options) known.push_back(option.name);
  reject_unknown(table, "[[evaluations]]", known);
  auto [ours, rest] = split_settings<EvaluationKeys>(table, {"kind"});
  const auto keys = read_options<EvaluationKeys>(ours, "[[evaluations]]");
  spec.evaluator.settings = std::move(rest);
  spec.evaluator.options = entry.resolve(spec.evaluator.settings);
  spec.text = find_path(table.at("text"), "text", folder);
  spec.protocol = keys.protocol;
  spec.context = keys.context;
  spec.phase = keys.phase == "prefill"  ? EvaluationPhase::prefill
               : keys.phase == "decode" ? EvaluationPhase::decode
                                        : EvaluationPhase::continuation;
  spec.prefill_tokens = keys.prefill_tokens;
  spec.reference = keys.reference == "float";
  return spec;
}

}  // namespace

std::string_view to_string(EvaluationPhase phase) {
  switch (phase) {
    case EvaluationPhase::prefill:
      return "prefill";
    case EvaluationPhase::decode:
      return "decode";
    case EvaluationPhase::continuation:
      return "continuation";
  }
  return "";
}

int64_t EvaluationSpec::prompt_tokens() const {
  switch (phase) {
    case EvaluationPhase::prefill:
      return context;
    case EvaluationPhase::decode:
      return 0;
    case EvaluationPhase::continuation:
      return prefill_tokens;
  }
  return 0;
}

ExperimentSpec read_experiment(const ConfigTable& config, const fs::path& folder) {
  const std::vector<std::string> lists{"models", "calibration", "methods", "evaluations"};
  auto [top_settings, rest] = split_settings<TopLevel>(config, lists);
  std::vector<std::string> known = lists;
  for (const OptionInfo& option : describe_options<TopLevel>()) known.push_back(option.name);
  reject_unknown(config, "the experiment", known);
  const auto top = read_options<TopLevel>(top_settings, "the experiment");

  ExperimentSpec spec;
  spec.title = top.title;
  spec.seed = top.seed;
  spec.device = parse_device(config.has("device") ? config.at("device").where : config.where(), top.device,
                             top.arithmetic);
  for (const char* list : {"models", "methods", "evaluations"})
    if (config.tables(list).empty()) bad_input("{}: at least one [[{}]] is needed", config.where(), list);
  for (const ConfigTable& table : config.tables("models")) {
    reject_unknown(table, "[[models]]", {"path"});
    const Setting& path = table.at("path");
    if (path.value.is_string() && is_preset(path.value.get<std::string>()))
      spec.models.emplace_back(path.value.get<std::string>());
    else
      spec.models.push_back(find_path(path, "path", folder));
  }
  spec.calibration = read_calibration(config.table("calibration"), folder);
  for (const ConfigTable& table : config.tables("methods"))
    for (MethodSpec& method : expand_methods(table)) spec.methods.push_back(std::move(method));
  for (const ConfigTable& table : config.tables("evaluations"))
    spec.evaluations.push_back(read_evaluation(table, folder));
  return spec;
}

}  // namespace grinqh
