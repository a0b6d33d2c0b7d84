#include "core/text.h"

#include "core/rng.h"
#include "model_files.h"
#include "support.h"

namespace grinqh {
namespace {

const std::vector<std::string> kNames{"awq", "gptq", "grinqh", "rtn"};

TEST(Text, NearestName) {
  EXPECT_EQ(nearest_name("gptw", kNames), "gptq");
  EXPECT_EQ(nearest_name("rtm", kNames), "rtn");
  EXPECT_EQ(nearest_name("grinq", kNames), "grinqh");
  EXPECT_EQ(nearest_name("grniqh", kNames), "grinqh");
  EXPECT_EQ(nearest_name("something else", kNames), "");
  EXPECT_EQ(nearest_name("rtn", {}), "");
}

TEST(Text, UnknownNameListsWhatIsKnown) {
  EXPECT_EQ(unknown_name("quantizer", "rtm", kNames),
            "unknown quantizer 'rtm'; known: awq, gptq, grinqh, rtn (did you mean 'rtn'?)");
  EXPECT_EQ(unknown_name("quantizer", "mixture", kNames),
            "unknown quantizer 'mixture'; known: awq, gptq, grinqh, rtn");
}

TEST(Text, Join) {
  EXPECT_EQ(join(kNames, ", "), "awq, gptq, grinqh, rtn");
  EXPECT_EQ(join(std::vector<std::string>{"one"}, ", "), "one");
  EXPECT_EQ(join({}, ", "), "");
}

// By its definition: '*' takes nothing, or one character and itself again.
bool matches(std::string_view pattern, std::string_view name) {
  if (pattern.empty()) return name.empty();
  if (pattern[0] == '*')
    return matches(pattern.substr(1), name) || (!name.empty() && matches(pattern, name.substr(1)));
  return !name.empty() && (pattern[0] == '?' || pattern[0] == name[0]) &&
         matches(pattern.substr(1), name.substr(1));
}

TEST(Text, GlobMatchesByDefinition) {
  Rng rng(1);
  int matched = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string pattern, name;
    for (uint64_t length = rng.below(6); length > 0; --length) pattern += "ab*?"[rng.below(4)];
    for (uint64_t length = rng.below(6); length > 0; --length) name += "ab"[rng.below(2)];
    ASSERT_EQ(glob_match(pattern, name), matches(pattern, name)) << pattern << " " << name;
    matched += matches(pattern, name);
  }
  EXPECT_GT(matched, 2000);
  EXPECT_TRUE(glob_match("*.mlp.*", "model.layers.10.mlp.up_proj"));
  EXPECT_FALSE(glob_match("*.layers.1.*", "model.layers.10.mlp.up_proj"));
}

TEST(Text, Slug) {
  EXPECT_EQ(slug("Graded against fixed precision"), "graded-against-fixed-precision");
  EXPECT_EQ(slug("  KL / bits: 2.5 (100%)! "), "kl-bits-2-5-100");
  EXPECT_EQ(slug("../../etc"), "etc");
  EXPECT_EQ(slug("---"), "");
}

TEST(Text, ReadsWholeFiles) {
  const testing::TempDir folder;
  const std::string bytes("two\nlines\0and a zero", 20);
  testing::write_file(folder / "text", bytes);
  EXPECT_EQ(read_file((folder / "text").string(), "text"), bytes);
}

TEST(Text, SaysWhyAFileCannotBeRead) {
  const testing::TempDir folder;
  EXPECT_REFUSED(read_file((folder / "none").string(), "calibration text"), (folder / "none").string(),
                 "calibration text", "No such file");
  EXPECT_REFUSED(read_file(folder.path().string(), "calibration text"), folder.path().string(),
                 "is a directory, expected a file");
}

}  // namespace
}  // namespace grinqh
