#include "experiment/transforms.h"

#include "core/registry.h"

namespace grinqh {

namespace {

PluginSpec resolve(std::string name, Settings settings, const std::string& where) {
  const auto& entry = Registry<ModelTransform>::get().at(name, where);
  Json options = entry.resolve(settings);
  return {std::move(name), std::move(settings), std::move(options), where};
}

}  // namespace

std::vector<PluginSpec> read_transforms(const Setting& setting) {
  const auto refuse = [&](const Json& found) {
    bad_input("{}: transform = {}: expected a list of names, or of tables with a name and options",
              setting.where, found.dump());
  };
  if (!setting.value.is_array()) refuse(setting.value);
  std::vector<PluginSpec> transforms;
  for (const Json& each : setting.value) {
    Settings settings;
    if (each.is_object()) {
      if (!each.contains("name") || !each["name"].is_string()) refuse(each);
      for (const auto& [key, value] : each.items())
        if (key != "name") settings.emplace(key, Setting{value, setting.where});
    } else if (!each.is_string()) {
      refuse(each);
    }
    const Json& name = each.is_object() ? each["name"] : each;
    transforms.push_back(resolve(name.get<std::string>(), std::move(settings), setting.where));
  }
  return transforms;
}

std::vector<PluginSpec> transforms_of(const Quantizer& quantizer, const std::string& where) {
  std::vector<PluginSpec> transforms;
  for (TransformChoice& choice : quantizer.transforms())
    transforms.push_back(resolve(std::move(choice.name), std::move(choice.settings), where));
  return transforms;
}

Json to_json(const std::vector<PluginSpec>& transforms) {
  Json list = Json::array();
  for (const PluginSpec& transform : transforms) {
    if (transform.options.empty()) {
      list.push_back(transform.name);
    } else {
      Json table{{"name", transform.name}};
      table.update(transform.options);
      list.push_back(table);
    }
  }
  return list;
}

TransformedModel apply_transforms(const std::vector<PluginSpec>& transforms, const Model& model,
                                  Matrix<const int32_t> windows, uint64_t seed, const DeviceChoice& device,
                                  bool shows_progress) {
  std::vector<NamedTransform> named;
  for (const PluginSpec& each : transforms)
    named.push_back({each.name, Registry<ModelTransform>::get().make(each.name, each.settings)});
  return transform_model(model, named, windows, seed, shows_progress, device);
}

}  // namespace grinqh
