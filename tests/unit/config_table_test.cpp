// TOML with places: what the messages about an experiment rest on.
#include "experiment/config_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model_files.h"
#include "support.h"

namespace grinqh {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

ConfigTable parse(const std::string& toml, const std::vector<std::string>& overrides = {}) {
  return ConfigTable::parse(toml, "f.toml", overrides);
}

TEST(ConfigTable, EveryKeyKnowsItsLine) {
  const ConfigTable root = parse(
      "title = \"t\"\n"
      "\n"
      "# a comment\n"
      "[calibration]\n"
      "windows = 4\n"
      "[[methods]]\n"
      "quantizer = \"a\"\n"
      "[[methods]]\n"
      "bits = [4,\n"
      "        3]\n"
      "policy = { name = \"p\", bits = 2.5 }\n");
  EXPECT_EQ(root.at("title").where, "f.toml:1");
  EXPECT_EQ(root.table("calibration").where(), "f.toml:4");
  EXPECT_EQ(root.table("calibration").at("windows").where, "f.toml:5");
  const std::vector<ConfigTable> methods = root.tables("methods");
  ASSERT_EQ(methods.size(), 2u);
  EXPECT_EQ(methods[0].at("quantizer").where, "f.toml:7");
  EXPECT_EQ(methods[1].where(), "f.toml:8");
  EXPECT_EQ(methods[1].at("bits").where, "f.toml:9");
  EXPECT_EQ(methods[1].at("policy").where, "f.toml:11");
  EXPECT_EQ(methods[1].at("policy").value, Json({{"bits", 2.5}, {"name", "p"}}));
}

TEST(ConfigTable, ValuesKeepTheirTypes) {
  const ConfigTable root = parse(
      "yes = true\ninteger = -3\nreal = 2.0\ntext = \"2\"\nlist = [[0, 2], [4]]\nempty = []\n"
      "nested = { a = { b = 1 } }\n");
  EXPECT_TRUE(root.at("yes").value.is_boolean());
  EXPECT_TRUE(root.at("integer").value.is_number_integer());
  EXPECT_TRUE(root.at("real").value.is_number_float());
  EXPECT_TRUE(root.at("text").value.is_string());
  EXPECT_EQ(root.at("list").value, Json::parse("[[0, 2], [4]]"));
  EXPECT_EQ(root.at("empty").value, Json::array());
  EXPECT_EQ(root.at("nested").value, Json::parse(R"({"a": {"b": 1}})"));
}

TEST(ConfigTable, KeysKeepTheOrderOfTheFile) {
  EXPECT_THAT(parse("zeta = 1\nalpha = 2\nmid = 3\n").keys(), ElementsAre("zeta", "alpha", "mid"));
  EXPECT_THAT(parse("t = { z = 1, a = 2 }").table("t").keys(), ElementsAre("z", "a"));
}

TEST(ConfigTable, OverridesReplaceAndAdd) {
  const std::string toml =
      "seed = 1\ntitle = \"t\"\n[[methods]]\nbits = 4\ngroup = 2\n[[methods]]\nbits = 5\n[a.b]\nc = 1\n";
  const ConfigTable root =
      parse(toml, {"seed=7", "methods.1.bits=[3, 2]", "title=two words", "methods.0.bits = 6", "a.b.c=\"x\"",
                   "calibration.windows=9", "device=\"4\""});
  EXPECT_EQ(root.at("seed").value, 7);
  EXPECT_EQ(root.at("title").value, "two words");
  EXPECT_EQ(root.at("device").value, "4");
  const std::vector<ConfigTable> methods = root.tables("methods");
  EXPECT_EQ(methods[1].at("bits").value, Json({3, 2}));
  EXPECT_EQ(methods[0].at("bits").value, 6);
  EXPECT_EQ(methods[0].at("group").value, 2);
  EXPECT_EQ(root.table("a").table("b").at("c").value, "x");
  EXPECT_EQ(root.table("calibration").at("windows").value, 9);
}

TEST(ConfigTable, OverriddenKeysKeepTheirPlaceInTheOrder) {
  const ConfigTable root = parse("first = 1\nsecond = 2\n", {"first=3", "third=4"});
  EXPECT_THAT(root.keys(), ElementsAre("first", "second", "third"));
}

TEST(ConfigTable, MistakesInOverridesNameTheOverride) {
  const std::string toml = "seed = 1\n[[methods]]\nbits = 4\nlevels = [0, 2]\n";
  EXPECT_REFUSED(parse(toml, {"seed"}), "--set seed", "KEY=VALUE");
  EXPECT_REFUSED(parse(toml, {"=3"}), "--set =3", "KEY=VALUE");
  EXPECT_REFUSED(parse(toml, {"methods.1.bits=3"}), "--set methods.1.bits=3", "list of 1");
  EXPECT_REFUSED(parse(toml, {"methods.x.bits=3"}), "--set methods.x.bits=3", "list of 1", "number below");
  EXPECT_REFUSED(parse(toml, {"methods.0=3"}), "--set methods.0=3", "and a key");
  EXPECT_REFUSED(parse(toml, {"seed.low=3"}), "--set seed.low=3", "not a table");
  EXPECT_REFUSED(parse(toml, {"methods.0.levels.0.x=3"}), "--set methods.0.levels.0.x=3", "not a table");
  EXPECT_REFUSED(parse("methods = []", {"methods.0.bits=3"}), "--set methods.0.bits=3", "list of 0");
}

TEST(ConfigTable, NoTomlNamesFileAndLine) {
  EXPECT_REFUSED(parse("seed = 1\nbits = [4,\n\n[x]\n"), "f.toml:4: not valid TOML");
  EXPECT_REFUSED(parse("a = 1\na = 2\n"), "f.toml:2: not valid TOML");
  EXPECT_REFUSED(parse("text = \"\xff\"\n"), "f.toml:1: not valid TOML");
  EXPECT_REFUSED(parse("day = 1979-05-27\n"), "f.toml:1", "dates");
  EXPECT_REFUSED(ConfigTable::read("/nowhere/x.toml"), "/nowhere/x.toml", "experiment");
}

TEST(ConfigTable, MissingAndWrongKindsNameTheTable) {
  const ConfigTable root = parse("one = 1\nlist = [1, 2]\nmixed = [{ a = 1 }, 2]\n[table]\nx = 1\n");
  EXPECT_REFUSED(root.at("two"), "f.toml:1", "key 'two' is missing");
  EXPECT_REFUSED(root.table("table").at("y"), "f.toml:4", "key 'y' is missing");
  EXPECT_REFUSED(root.table("one"), "f.toml:1", "expected a table [one]");
  EXPECT_REFUSED(root.tables("list"), "f.toml:2", "expected a list of tables [[list]]");
  EXPECT_REFUSED(root.tables("mixed"), "f.toml:3", "expected a list of tables [[mixed]]");
  EXPECT_REFUSED(root.tables("table"), "f.toml:4", "expected a list of tables [[table]]");
  EXPECT_TRUE(root.table("absent").keys().empty());
  EXPECT_TRUE(root.tables("absent").empty());
}

TEST(ConfigTable, WhatIsWrittenReadsBackTheSame) {
  const Json values = Json::parse(R"({
    "title": "quotes \" and \\ and \n and \u00e4", "seed": 9007199254740993, "flag": false,
    "tenth": 0.1, "whole": 4.0, "tiny": 1.25e-300, "lists": [[0, 2, 4], [0, 8]], "reals": [4.0, 2.5],
    "texts": ["*", "model.layers.0.*"], "none": [],
    "models": [{"path": "a/b"}], "calibration": {"text": "self", "windows": 4},
    "methods": [{"quantizer": "q", "policy": {"name": "p", "bits": 3.0, "levels": []}}]})");
  const ConfigTable read = ConfigTable::parse(to_toml(values), "written");
  Json back = Json::object();
  for (const auto& [key, value] : values.items()) back[key] = read.at(key).value;
  // Compared by key: TOML's writer sorts the keys of a table.
  EXPECT_EQ(nlohmann::json::parse(back.dump()), nlohmann::json::parse(values.dump()));
  EXPECT_TRUE(read.at("whole").value.is_number_float()) << "4.0 stays a real number";
}

}  // namespace
}  // namespace grinqh
