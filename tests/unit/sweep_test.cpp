// Expansion of [[methods]] tables: which points a sweep has, in which order, under which labels.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "experiment/spec.h"
#include "model_files.h"
#include "support.h"

namespace grinqh {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<MethodSpec> expand(const std::string& keys) {
  return expand_methods(ConfigTable::parse("[[methods]]\n" + keys, "f.toml").tables("methods").front());
}

std::vector<std::string> labels(const std::string& keys) {
  std::vector<std::string> found;
  for (const MethodSpec& method : expand(keys)) found.push_back(method.quantizer.name + ": " + method.label);
  return found;
}

TEST(Sweep, OnePointHasItsDefaultsWrittenOut) {
  const std::vector<MethodSpec> methods = expand("quantizer = \"rtn\"\n");
  ASSERT_EQ(methods.size(), 1u);
  const MethodSpec& method = methods.front();
  EXPECT_EQ(method.label, "");
  EXPECT_EQ(method.quantizer.options,
            Json::parse(R"({"bits": 4, "group": 128, "symmetric": false, "mse": false,
                                                      "mse_grid": 100, "mse_max_shrink": 0.8, "mse_norm": 2.4})"));
  EXPECT_THAT(method.quantizer.settings, IsEmpty());
  EXPECT_EQ(method.policy.name, "uniform");
  EXPECT_EQ(method.policy.options, Json::parse(R"({"level": 0})"));
  EXPECT_THAT(method.layers, ElementsAre("*"));
  EXPECT_EQ(method.prefill_level, kFullLevel);
  EXPECT_FALSE(method.calibrates());
}

TEST(Sweep, AxesVaryInTheOrderOfTheFileTheLastFastest) {
  EXPECT_THAT(labels("quantizer = \"rtn\"\nbits = [4, 3]\ngroup = [64, 128]\n"),
              ElementsAre("rtn: bits=4 group=64", "rtn: bits=4 group=128", "rtn: bits=3 group=64",
                          "rtn: bits=3 group=128"));
  EXPECT_THAT(labels("quantizer = \"rtn\"\ngroup = [64, 128]\nbits = [4, 3]\n"),
              ElementsAre("rtn: group=64 bits=4", "rtn: group=64 bits=3", "rtn: group=128 bits=4",
                          "rtn: group=128 bits=3"));
  EXPECT_THAT(labels("bits = [4, 3]\nsymmetric = [true, false]\nquantizer = \"rtn\"\ngroup = 8\n"),
              ElementsAre("rtn: bits=4 symmetric=true group=8", "rtn: bits=4 symmetric=false group=8",
                          "rtn: bits=3 symmetric=true group=8", "rtn: bits=3 symmetric=false group=8"));
}

TEST(Sweep, AListIsAValueWhereAListIsExpected) {
  const std::vector<MethodSpec> one = expand("quantizer = \"grinqh\"\nlevels = [0, 4]\n");
  ASSERT_EQ(one.size(), 1u);
  EXPECT_EQ(one[0].quantizer.options["levels"], Json({0, 4}));
  EXPECT_EQ(one[0].label, "levels=[0,4]");
  const std::vector<MethodSpec> two = expand("quantizer = \"grinqh\"\nlevels = [[0, 4], [2, 8]]\n");
  ASSERT_EQ(two.size(), 2u);
  EXPECT_EQ(two[0].quantizer.options["levels"], Json({0, 4}));
  EXPECT_EQ(two[1].quantizer.options["levels"], Json({2, 8}));
}

TEST(Sweep, QuantizerAndLayersAndPhaseAreAxesToo) {
  EXPECT_THAT(labels("quantizer = [\"rtn\", \"grinqh\"]\ngroup = 16\n"),
              ElementsAre("rtn: group=16", "grinqh: group=16"));
  const std::vector<MethodSpec> layers =
      expand("quantizer = \"rtn\"\nlayers = [[\"*q_proj\"], [\"*mlp*\", \"*o_proj\"]]\n");
  ASSERT_EQ(layers.size(), 2u);
  EXPECT_THAT(layers[0].layers, ElementsAre("*q_proj"));
  EXPECT_THAT(layers[1].layers, ElementsAre("*mlp*", "*o_proj"));
  const std::vector<MethodSpec> phases = expand("quantizer = \"grinqh\"\nphase_prefill = [4, 0]\n");
  ASSERT_EQ(phases.size(), 2u);
  EXPECT_EQ(phases[0].prefill_level, 4);
  EXPECT_EQ(phases[1].prefill_level, kFullLevel);
}

TEST(Sweep, PoliciesByNameAndByTable) {
  EXPECT_THAT(labels("quantizer = \"grinqh\"\npolicy = \"grinqh\"\n"), ElementsAre("grinqh: grinqh"));
  EXPECT_THAT(labels("quantizer = \"grinqh\"\npolicy = [\"uniform\", \"grinqh\"]\n"),
              ElementsAre("grinqh: ", "grinqh: grinqh"));
  EXPECT_THAT(
      labels("quantizer = \"grinqh\"\ngroup = [8, 16]\npolicy = { name = \"grinqh\", bits = [4.0, 2.0] }\n"),
      ElementsAre("grinqh: group=8, grinqh bits=4.0", "grinqh: group=8, grinqh bits=2.0",
                  "grinqh: group=16, grinqh bits=4.0", "grinqh: group=16, grinqh bits=2.0"));
  EXPECT_THAT(labels("quantizer = \"grinqh\"\n"
                     "policy = [{ name = \"uniform\", level = [2, 4] }, { name = \"grinqh\", bits = 3 }]\n"),
              ElementsAre("grinqh: uniform level=2", "grinqh: uniform level=4", "grinqh: grinqh bits=3"));
  const std::vector<MethodSpec> levels = expand(
      "quantizer = \"grinqh\"\npolicy = { name = \"grinqh\", levels = [[0, 4], [0, 8]], score = "
      "\"magnitude\" }\n");
  ASSERT_EQ(levels.size(), 2u);
  EXPECT_EQ(levels[0].policy.options["levels"], Json({0, 4}));
  EXPECT_EQ(levels[1].policy.options["levels"], Json({0, 8}));
  EXPECT_EQ(levels[1].policy.options["score"], "magnitude");
  EXPECT_TRUE(levels[0].calibrates());
}

TEST(Sweep, MistakesNameLineKeyAndWhatIsAllowed) {
  EXPECT_REFUSED(expand("bits = 4\n"), "f.toml:1", "'quantizer' is missing");
  EXPECT_REFUSED(expand("quantizer = 4\n"), "f.toml:2", "quantizer = 4", "expected a name");
  EXPECT_REFUSED(expand("quantizer = \"rtm\"\n"), "f.toml:2", "unknown quantizer 'rtm'",
                 "did you mean 'rtn'?");
  EXPECT_REFUSED(expand("quantizer = []\n"), "f.toml:2", "empty list");
  EXPECT_REFUSED(expand("quantizer = \"rtn\"\nbits = []\n"), "f.toml:3", "empty list");
  EXPECT_REFUSED(expand("quantizer = \"rtn\"\npolicy = []\n"), "f.toml:3", "empty list");
  EXPECT_REFUSED(expand("quantizer = \"rtn\"\nbit = 4\n"), "f.toml:3", "'bit'", "did you mean 'bits'?");
  EXPECT_REFUSED(expand("quantizer = \"rtn\"\npolicies = \"uniform\"\n"), "f.toml:3", "'policies'",
                 "did you mean 'policy'?");
  EXPECT_REFUSED(expand("quantizer = \"rtn\"\nbits = [4, 9]\n"), "f.toml:3", "bits = 9", "2 to 8");
  EXPECT_REFUSED(expand("quantizer = \"rtn\"\nbits = 4.5\n"), "f.toml:3", "bits = 4.5", "an integer");
  EXPECT_REFUSED(expand("quantizer = \"rtn\"\nbits = [[4, 3]]\n"), "f.toml:3", "bits = [4,3]", "an integer");
  EXPECT_REFUSED(expand("quantizer = \"rtn\"\nsymmetric = 1\n"), "f.toml:3", "symmetric = 1",
                 "true or false");
  EXPECT_REFUSED(expand("quantizer = \"rtn\"\nlayers = \"*\"\n"), "f.toml:3", "layers", "a list of strings");
  EXPECT_REFUSED(expand("quantizer = \"rtn\"\nphase_prefill = 17\n"), "f.toml:3", "phase_prefill = 17",
                 "0 to 16");
  EXPECT_REFUSED(expand("quantizer = \"grinqh\"\nlevels = [0, 2, 9]\n"), "f.toml:3", "levels = [0,2,9]",
                 "0 to 8");
  EXPECT_REFUSED(expand("quantizer = \"grinqh\"\nlevels = [2, 0]\n"), "f.toml:3", "levels = [2,0]",
                 "ascending");
  EXPECT_REFUSED(expand("quantizer = \"grinqh\"\naxis = \"rows\"\n"), "f.toml:3", "'rows'", "input, output");
  EXPECT_REFUSED(expand("quantizer = \"grinqh\"\npolicy = 3\n"), "f.toml:3", "policy = 3", "a name");
  EXPECT_REFUSED(expand("quantizer = \"grinqh\"\npolicy = { bits = 3 }\n"), "f.toml:3", "a name");
  EXPECT_REFUSED(expand("quantizer = \"grinqh\"\npolicy = \"grinq\"\n"), "f.toml:3", "unknown policy 'grinq'",
                 "did you mean 'grinqh'?");
  EXPECT_REFUSED(expand("quantizer = \"grinqh\"\npolicy = { name = \"grinqh\", bits = 9 }\n"), "f.toml:3",
                 "bits = 9", "0 to 8");
  EXPECT_REFUSED(expand("quantizer = \"grinqh\"\npolicy = { name = \"grinqh\", bit = 3 }\n"), "f.toml:3",
                 "'bit'", "did you mean 'bits'?");
  EXPECT_REFUSED(expand("quantizer = \"grinqh\"\npolicy = { name = \"grinqh\", bits = [] }\n"), "f.toml:3",
                 "empty list");
}

}  // namespace
}  // namespace grinqh
