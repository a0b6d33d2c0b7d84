// Each rule holds on a sound example and fails on one that breaks it.
#include "architecture/rules.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"

namespace grinqh::architecture {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

constexpr std::string_view kTable = R"(
# a comment
core           :
model          : core
store          : core <hdf5.h>
cli            : core store revision.h
kernels/common :
kernels/*      : core kernels/common
quantizers/*   : core kernels/*/layout.h
)";

Violations check(const std::string& path, const std::string& text) {
  return Layers::parse(kTable).check_includes({path, text});
}

TEST(Includes, AreFoundWithLineAndForm) {
  const auto found =
      includes_of("// one\n#include \"core/a.h\"\n  #  include <vector> // why\n// #include <no>\n");
  ASSERT_EQ(found.size(), 2u);
  EXPECT_EQ(found[0].line, 2);
  EXPECT_EQ(found[0].name, "core/a.h");
  EXPECT_TRUE(found[0].quoted);
  EXPECT_EQ(found[1].line, 3);
  EXPECT_EQ(found[1].name, "vector");
  EXPECT_FALSE(found[1].quoted);
}

TEST(Layers, AllowWhatTheTableSays) {
  EXPECT_THAT(
      check("framework/model/a.cpp", "#include \"model/a.h\"\n#include <vector>\n#include \"core/b.h\"\n"),
      IsEmpty());
  EXPECT_THAT(check("framework/store/a.cpp", "#include <hdf5.h>\n"), IsEmpty());
  EXPECT_THAT(check("framework/cli/a.cpp", "#include \"revision.h\"\n#include \"beside.h\"\n"), IsEmpty());
  EXPECT_THAT(check("kernels/dense/a.cpp",
                    "#include \"kernels/dense/layout.h\"\n#include \"kernels/common/m.cuh\"\n"),
              IsEmpty());
  EXPECT_THAT(check("quantizers/q/q.cpp", "#include \"kernels/dense/layout.h\"\n"), IsEmpty());
}

TEST(Layers, RefuseWhatTheTableDoesNotSay) {
  EXPECT_THAT(
      check("framework/core/a.h", "#pragma once\n\n#include \"model/a.h\"\n"),
      ElementsAre(
          "framework/core/a.h:3: core may not include model/a.h (layers.txt:3: core : nothing else)"));
  const std::pair<const char*, const char*> wrong[] = {
      {"framework/model/a.cpp", "store/a.h"},
      {"framework/model/a.cpp", "framework/store/a.h"},
      {"framework/model/a.cpp", "kernels/dense/layout.h"},
      {"framework/model/a.cpp", "quantizers/q/q.cpp"},
      {"framework/model/a.cpp", "revision.h"},
      {"kernels/dense/a.cpp", "kernels/nested/layout.h"},
      {"kernels/dense/a.cpp", "model/a.h"},
      {"kernels/common/a.cuh", "core/a.h"},
      {"quantizers/q/q.cpp", "kernels/dense/cpu.h"},
      {"quantizers/q/q.cpp", "model/a.h"},
      {"quantizers/q/q.cpp", "quantizers/r/r.cpp"},
  };
  for (const auto& [path, include] : wrong)
    EXPECT_THAT(check(path, "#include \"" + std::string(include) + "\"\n"),
                ElementsAre(HasSubstr("may not include " + std::string(include))))
        << path;
}

TEST(Layers, ConfineLibrariesToTheFoldersNamingThem) {
  EXPECT_THAT(check("framework/model/a.cpp", "#include <hdf5.h>\n"),
              ElementsAre(HasSubstr("model may not include <hdf5.h>")));
}

TEST(Layers, SeeThroughOtherFormsOfAPath) {
  EXPECT_THAT(check("framework/core/a.cpp", "#include <model/a.h>\n"),
              ElementsAre(HasSubstr("may not include")));
  EXPECT_THAT(check("framework/core/a.cpp", "#include \"../model/a.h\"\n"),
              ElementsAre(HasSubstr("is no path")));
  EXPECT_THAT(check("framework/core/a.cpp", "#include \"core/../model/a.h\"\n"),
              ElementsAre(HasSubstr("is no path")));
  EXPECT_THAT(check("framework/core/a.cpp", "#include \"other/a.h\"\n"),
              ElementsAre(HasSubstr("is no path")));
}

TEST(Layers, WantALineForEveryFolder) {
  EXPECT_THAT(check("framework/new/a.cpp", ""), ElementsAre(HasSubstr("no line for the folder new")));
}

TEST(Layers, LeaveTestsFree) {
  EXPECT_THAT(check("quantizers/q/q_test.cpp", "#include \"model/a.h\"\n"), IsEmpty());
  EXPECT_THAT(check("tests/unit/a_test.cpp", "#include \"model/a.h\"\n"), IsEmpty());
}

TEST(Layers, RefuseATableThatIsNone) {
  EXPECT_THROW(Layers::parse("core model\n"), BadInput);
  EXPECT_THROW(Layers::parse("core model : store\n"), BadInput);
}

TEST(StringLiterals, AreFoundOutsideCommentsOnly) {
  const auto found = string_literals_of(R"x(// "a"
/* "b"
*/ f("c", '"', "d\"e", 1'000, R"(raw "f")"); g("h");)x");
  ASSERT_EQ(found.size(), 3u);
  EXPECT_EQ(found[0].text, "c");
  EXPECT_EQ(found[0].line, 3);
  EXPECT_EQ(found[1].text, "d\\\"e");
  EXPECT_EQ(found[2].text, "h");
}

TEST(MethodNames, AreForPluginsAndTestsOnly) {
  const std::vector<std::string> methods = {"rtn"};
  const std::string text = "// \"rtn\"\nif (name == \"rtn\") f(\"rtn is fine in prose\");\n";
  EXPECT_THAT(check_method_names({"framework/quant/a.cpp", text}, methods),
              ElementsAre(StartsWith("framework/quant/a.cpp:2: \"rtn\"")));
  EXPECT_THAT(check_method_names({"kernels/dense/a.cu", text}, methods), ::testing::SizeIs(1));
  EXPECT_THAT(check_method_names({"baselines/rtn/rtn.cpp", text}, methods), IsEmpty());
  EXPECT_THAT(check_method_names({"tests/unit/a_test.cpp", text}, methods), IsEmpty());
}

TEST(Headers, HaveAGuardAndSayWhatTheyAreFor) {
  EXPECT_THAT(check_header_form({"a.h", "// What it is.\n#pragma once\n"}), IsEmpty());
  EXPECT_THAT(check_header_form({"a.h", "// What it is.\n"}), ElementsAre(HasSubstr("#pragma once")));
  EXPECT_THAT(check_header_form({"a.h", "#pragma once\n"}), ElementsAre(HasSubstr("comment")));
  EXPECT_THAT(
      check_header_form({"a-inl.h", "// What it is.\n#if defined(A) == defined(HWY_TARGET_TOGGLE)\n"}),
      IsEmpty());
  EXPECT_THAT(check_header_form({"a-inl.h", "// What it is.\n#pragma once\n"}),
              ElementsAre(HasSubstr("Highway's guard")));
}

TEST(Length, IsLimited) {
  const auto lines = [](int count) {
    std::string text;
    for (int i = 0; i < count; ++i) text += "\n";
    return text;
  };
  EXPECT_THAT(check_length({"a.h", lines(150)}), IsEmpty());
  EXPECT_THAT(check_length({"a.h", lines(151)}), ElementsAre(StartsWith("a.h:151: 151 lines")));
  EXPECT_THAT(check_length({"a.cpp", lines(500)}), IsEmpty());
  EXPECT_THAT(check_length({"a.cpp", lines(501)}), ElementsAre(HasSubstr("at most 500")));
}

TEST(PluginFolders, AreCompleteAndHaveNoHeader) {
  const std::vector<std::string> files = {"baselines/q/q.cpp", "baselines/q/q.toml", "baselines/q/q_test.cpp",
                                          "baselines/q/PROVENANCE.md"};
  EXPECT_THAT(check_plugin_folder("baselines/q", files), IsEmpty());
  EXPECT_THAT(check_plugin_folder("baselines/q", std::span(files).first(3)),
              ElementsAre(HasSubstr("lacks PROVENANCE.md")));
  EXPECT_THAT(check_plugin_folder("baselines/q", std::span(files).last(3)),
              ElementsAre(HasSubstr("lacks q.cpp")));
  EXPECT_THAT(check_plugin_folder("quantizers/q",
                                  std::vector<std::string>{"quantizers/q/q.cpp", "quantizers/q/q.toml",
                                                           "quantizers/q/q_test.cpp", "quantizers/q/q.h"}),
              ElementsAre(HasSubstr("has no header")));
}

}  // namespace
}  // namespace grinqh::architecture
