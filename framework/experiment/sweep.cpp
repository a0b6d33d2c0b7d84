// Expansion of [[methods]] tables into single methods.
#include <algorithm>

#include "core/registry.h"
#include "core/text.h"
#include "experiment/spec.h"
#include "quant/precision_policy.h"
#include "quant/quantizer.h"

namespace grinqh {

namespace {

// Keys of a method that belong to the framework; all others are the quantizer's options.
struct MethodKeys {
  std::vector<std::string> layers = {"*"};
  int phase_prefill = 0;
  template <class V>
  void fields(V& v) {
    v("layers", layers, "patterns of the linear layers to quantize");
    v("phase_prefill", phase_prefill, Range{0, kMaxLevel}, "level of prompts; 0: the highest");
  }
};

const std::string kDefaultPolicy = "uniform";

// One value for each key of a table.
using Point = std::vector<std::pair<std::string, Setting>>;

// The values that one setting stands for.
std::vector<Setting> axis(const Setting& setting, bool takes_list) {
  const bool is_axis =
      setting.value.is_array() &&
      (!takes_list || (!setting.value.empty() &&
                       std::ranges::all_of(setting.value, [](const Json& v) { return v.is_array(); })));
  if (!is_axis) return {setting};
  if (setting.value.empty()) bad_input("{}: an empty list is no axis of a sweep", setting.where);
  std::vector<Setting> values;
  for (const Json& value : setting.value) values.push_back({value, setting.where});
  return values;
}

bool takes_list(std::span<const OptionInfo> options, std::string_view key) {
  const auto it = std::ranges::find(options, key, &OptionInfo::name);
  return it != options.end() && is_list(it->type);
}

// All combinations, the last key varying fastest.
std::vector<Point> product(const std::vector<std::pair<std::string, std::vector<Setting>>>& axes) {
  std::vector<Point> points{{}};
  for (const auto& [key, values] : axes) {
    std::vector<Point> longer;
    for (const Point& point : points)
      for (const Setting& value : values) {
        longer.push_back(point);
        longer.back().emplace_back(key, value);
      }
    points = std::move(longer);
  }
  return points;
}

std::string short_value(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  std::string text = value.dump();
  std::erase(text, '"');
  return text;
}

PluginSpec plugin_spec(std::string name, const Point& point, const Json& options) {
  PluginSpec spec{std::move(name), {}, options};
  for (const auto& [key, setting] : point) spec.settings.emplace(key, setting);
  return spec;
}

// "grinqh", or { name = "grinqh", bits = [4, 3] }: every policy that it stands for, with its label.
std::vector<std::pair<PluginSpec, std::string>> expand_policy(const Setting& setting) {
  std::string name;
  std::vector<std::pair<std::string, std::vector<Setting>>> axes;
  if (setting.value.is_string()) {
    name = setting.value.get<std::string>();
  } else if (setting.value.is_object() && setting.value.contains("name") &&
             setting.value["name"].is_string()) {
    name = setting.value["name"].get<std::string>();
  } else {
    bad_input("{}: policy = {}: expected a name, or a table with a name and options", setting.where,
              setting.value.dump());
  }
  const auto& entry = Registry<PrecisionPolicy>::get().at(name, setting.where);
  if (setting.value.is_object())
    for (const auto& [key, value] : setting.value.items())
      if (key != "name") axes.emplace_back(key, axis({value, setting.where}, takes_list(entry.options, key)));
  std::vector<std::pair<PluginSpec, std::string>> policies;
  for (const Point& point : product(axes)) {
    PluginSpec spec = plugin_spec(name, point, nullptr);
    spec.options = entry.resolve(spec.settings);
    std::string label = name;
    for (const auto& [key, value] : point) label += fmt::format(" {}={}", key, short_value(value.value));
    policies.emplace_back(std::move(spec), std::move(label));
  }
  return policies;
}

// Methods of one quantizer name.
void expand_quantizer(const ConfigTable& table, const Setting& quantizer, std::vector<MethodSpec>& methods) {
  if (!quantizer.value.is_string())
    bad_input("{}: quantizer = {}: expected a name", quantizer.where, quantizer.value.dump());
  const auto name = quantizer.value.get<std::string>();
  const auto& entry = Registry<Quantizer>::get().at(name, quantizer.where);
  const std::vector<OptionInfo> method_keys = describe_options<MethodKeys>();
  std::vector<std::string> known{"quantizer", "policy"};
  for (const auto* infos : {&method_keys, &entry.options})
    for (const OptionInfo& info : *infos) known.push_back(info.name);
  reject_unknown(table, fmt::format("[[methods]] with quantizer '{}'", name), known);

  std::vector<std::pair<std::string, std::vector<Setting>>> axes;
  for (const std::string& key : table.keys()) {
    if (key == "quantizer") continue;
    const bool list =
        key == "policy" ? false : takes_list(entry.options, key) || takes_list(method_keys, key);
    axes.emplace_back(key, axis(table.at(key), list));
  }
  if (!table.has("policy"))
    axes.emplace_back("policy", std::vector<Setting>{{kDefaultPolicy, quantizer.where}});

  for (const Point& point : product(axes)) {
    Point options;
    Settings framework;
    Setting policy;
    std::string label;
    for (const auto& [key, setting] : point) {
      if (key == "policy") {
        policy = setting;
        continue;
      }
      const bool ours = std::ranges::find(method_keys, key, &OptionInfo::name) != method_keys.end();
      if (ours)
        framework.emplace(key, setting);
      else
        options.emplace_back(key, setting);
      label += fmt::format("{}{}={}", label.empty() ? "" : " ", key, short_value(setting.value));
    }
    const auto keys = read_options<MethodKeys>(framework, "[[methods]]");
    PluginSpec spec = plugin_spec(name, options, nullptr);
    spec.options = entry.resolve(spec.settings);
    for (const auto& [policy_spec, policy_label] : expand_policy(policy)) {
      MethodSpec method{spec, policy_spec, keys.layers, kFullLevel, label, quantizer.where};
      if (keys.phase_prefill != 0) method.prefill_level = static_cast<Level>(keys.phase_prefill);
      if (policy_label != kDefaultPolicy) method.label += (label.empty() ? "" : ", ") + policy_label;
      methods.push_back(std::move(method));
    }
  }
}

}  // namespace

std::vector<MethodSpec> expand_methods(const ConfigTable& table) {
  std::vector<MethodSpec> methods;
  for (const Setting& quantizer : axis(table.at("quantizer"), false))
    expand_quantizer(table, quantizer, methods);
  return methods;
}

bool MethodSpec::calibrates() const {
  const auto quantizes = Registry<Quantizer>::get().make(quantizer.name, quantizer.settings);
  const auto reads = Registry<PrecisionPolicy>::get().make(policy.name, policy.settings);
  return !quantizes->needs().empty() || !quantizes->survey_needs().empty() || !reads->needs().empty() ||
         reads->tunes();
}

}  // namespace grinqh
