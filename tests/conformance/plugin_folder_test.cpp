// The experiment file of every plugin folder: it reads, and writes out the plugin's options with their
// defaults.
#include "core/text.h"
#include "experiment/spec.h"
#include "model_files.h"
#include "quant/model_transform.h"
#include "quant/precision_policy.h"
#include "quant/quantizer.h"
#include "support.h"

namespace grinqh {
namespace {

std::vector<std::string> folders() {
  std::vector<std::string> found;
  for (const char* top : {"quantizers", "baselines"})
    for (const auto& entry : std::filesystem::directory_iterator(testing::source_dir() / top))
      if (entry.is_directory()) found.push_back(std::string(top) + "/" + entry.path().filename().string());
  return found;
}

std::string name_of(const std::string& folder) { return folder.substr(folder.find('/') + 1); }

// Transforms that the folder's sources register: they need not have its name.
std::vector<std::string> transforms_in(const std::string& folder) {
  std::string sources;
  for (const auto& entry : std::filesystem::directory_iterator(testing::source_dir() / folder))
    if (entry.path().extension() == ".cpp" && !entry.path().stem().string().ends_with("_test"))
      sources += read_file(entry.path().string(), "source");
  std::vector<std::string> found;
  for (const std::string& name : Registry<ModelTransform>::get().names())
    if (sources.find("Register<ModelTransform") != sources.npos &&
        sources.find('"' + name + '"') != sources.npos)
      found.push_back(name);
  return found;
}

class PluginFolder : public ::testing::TestWithParam<std::string> {
 protected:
  ExperimentSpec read() const {
    const auto file = testing::source_dir() / GetParam() / (name_of(GetParam()) + ".toml");
    return read_experiment(ConfigTable::read(file), testing::source_dir());
  }

  // Options that the file leaves out, or gives a single value other than the default. An axis of the sweep
  // may leave the default.
  static std::vector<std::string> undeclared(const std::vector<OptionInfo>& options,
                                             const std::vector<const PluginSpec*>& uses) {
    std::vector<std::string> missing;
    for (const OptionInfo& option : options)
      for (const PluginSpec* use : uses)
        if (!use->settings.contains(option.name)) {
          missing.push_back(option.name);
          break;
        }
    return missing;
  }
};

TEST_P(PluginFolder, ItsExperimentUsesItWithEveryOptionWrittenOut) {
  const std::string name = name_of(GetParam());
  const ExperimentSpec spec = read();
  std::vector<const PluginSpec*> quantizers, policies;
  for (const MethodSpec& method : spec.methods) {
    if (method.quantizer.name == name) quantizers.push_back(&method.quantizer);
    if (method.policy.name == name) policies.push_back(&method.policy);
  }
  const std::vector<std::string> its_transforms = transforms_in(GetParam());
  EXPECT_FALSE(quantizers.empty() && policies.empty() && its_transforms.empty())
      << "the experiment does not use " << name;
  for (const std::string& transform : its_transforms) {
    std::vector<const PluginSpec*> uses;
    for (const MethodSpec& method : spec.methods)
      for (const PluginSpec& each : method.transforms)
        if (each.name == transform) uses.push_back(&each);
    EXPECT_FALSE(uses.empty()) << "the experiment does not use " << transform;
    // Where a quantizer brings it, the quantizer's options are what is written out.
    EXPECT_TRUE(std::ranges::any_of(
        uses,
        [&](const PluginSpec* use) {
          return undeclared(Registry<ModelTransform>::get().at(transform).options, {use}).empty();
        }))
        << "no use of " << transform << " writes all its options out";
  }
  if (Registry<Quantizer>::get().contains(name)) {
    EXPECT_THAT(undeclared(Registry<Quantizer>::get().at(name).options, quantizers), ::testing::IsEmpty());
  }
  if (Registry<PrecisionPolicy>::get().contains(name)) {
    EXPECT_THAT(undeclared(Registry<PrecisionPolicy>::get().at(name).options, policies),
                ::testing::IsEmpty());
  }
}

TEST_P(PluginFolder, ItsExperimentShowsTheDefaults) {
  const std::string name = name_of(GetParam());
  const ExperimentSpec spec = read();
  const auto expect_default_somewhere = [&](const auto& registry, const auto& plugin_of) {
    if (!registry.contains(name)) return;
    for (const OptionInfo& option : registry.at(name).options)
      EXPECT_TRUE(std::ranges::any_of(spec.methods,
                                      [&](const MethodSpec& method) {
                                        const PluginSpec& plugin = plugin_of(method);
                                        return plugin.name == name &&
                                               plugin.options.at(option.name) == option.default_value;
                                      }))
          << option.name << " is nowhere " << option.default_value.dump();
  };
  expect_default_somewhere(Registry<Quantizer>::get(),
                           [](const MethodSpec& m) -> const PluginSpec& { return m.quantizer; });
  expect_default_somewhere(Registry<PrecisionPolicy>::get(),
                           [](const MethodSpec& m) -> const PluginSpec& { return m.policy; });
}

TEST_P(PluginFolder, ItsExperimentRunsOnWhatTheRepositoryHolds) {
  const ExperimentSpec spec = read();
  EXPECT_EQ(spec.calibration.text, "self");
  for (const auto& model : spec.models)
    EXPECT_THAT(model.string(), ::testing::HasSubstr("experiments/models/"));
  for (const EvaluationSpec& evaluation : spec.evaluations)
    EXPECT_THAT(evaluation.text.string(), ::testing::HasSubstr("experiments/data/"));
}

INSTANTIATE_TEST_SUITE_P(All, PluginFolder, ::testing::ValuesIn(folders()),
                         [](const auto& each) { return name_of(each.param); });

}  // namespace
}  // namespace grinqh
