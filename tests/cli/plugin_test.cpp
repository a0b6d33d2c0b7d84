// Shared libraries of plugins, and cells that fail.
#include "cli/sweep.h"

namespace grinqh {
namespace {

using ::testing::AllOf;
using testing::Environment;
using testing::Finished;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;

const Environment kOutside{{"GRINQH_PLUGINS", GRINQH_OUTSIDE_PLUGIN}};

Environment failing(const std::string& plugin) {
  Environment environment = kOutside;
  environment["OUTSIDE_FAILS"] = plugin;
  return environment;
}

class Plugins : public testing::Sweep {
 protected:
  Finished run_with(const Environment& environment) const {
    return testing::run(words("out"), testing::source_dir(), environment);
  }
};

TEST_F(Plugins, FromASharedLibraryAreLikeTheBuiltInOnes) {
  EXPECT_THAT(testing::run({"list", "quantizers"}, testing::source_dir(), kOutside).out,
              AllOf(HasSubstr("outside "), HasSubstr("rtn ")));
  EXPECT_THAT(testing::run({"list", "quantizers"}).out, Not(HasSubstr("outside")));
  EXPECT_THAT(testing::run({"describe", "outside"}, testing::source_dir(), kOutside).out,
              AllOf(HasSubstr("shrink"), HasSubstr("0.5 to 1")));

  write("sweep.toml", toml("[[methods]]\nquantizer = \"outside\"\n"
                           "[[methods]]\nquantizer = \"rtn\"\nbits = 8\nsymmetric = true\ngroup = 0\n"));
  ASSERT_EQ(run_with(kOutside).status, 0);
  const Json rows = testing::report_rows(folder_ / "out");
  ASSERT_THAT(rows, SizeIs(2));
  for (const char* same : {"perplexity", "kl_mean", "stored_bits", "read_bits_total"})
    EXPECT_EQ(rows[0].at(same), rows[1].at(same)) << same << ": the same grid by another name";
  EXPECT_NE(rows[0].at("quantizer"), rows[1].at("quantizer"));
}

TEST_F(Plugins, AFailedCellIsRecordedAndTheOthersGoOn) {
  write("sweep.toml",
        toml("[[methods]]\nquantizer = \"rtn\"\nbits = 8\n"
             "[[methods]]\nquantizer = \"outside\"\npolicy = [\"uniform\", \"outside_policy\"]\n"
             "[[methods]]\nquantizer = \"rtn\"\nbits = 4\n"));
  const auto statuses = [&] {
    std::vector<std::string> found;
    for (const Json& row : testing::report_rows(folder_ / "out", {"--sort", "order"}))
      found.push_back(row.at("status").get<std::string>());
    return found;
  };
  const Finished quantizer = run_with(failing("outside"));
  EXPECT_EQ(quantizer.status, 1);
  EXPECT_THAT(quantizer.err,
              AllOf(HasSubstr("2 cells computed, 0 reused, 2 failed"),
                    HasSubstr("outside was asked to fail, and did at model.layers.3.mlp.up_proj")));
  EXPECT_THAT(quantizer.out, HasSubstr("was asked to fail"));
  const std::string why = "failed: outside was asked to fail, and did at model.layers.3.mlp.up_proj";
  EXPECT_EQ(statuses(), (std::vector<std::string>{"ok", why, why, "ok"}));

  const Finished policy = run_with(failing("outside_policy"));
  EXPECT_EQ(policy.status, 1);
  EXPECT_THAT(policy.err, HasSubstr("1 cells computed, 2 reused, 1 failed"));
  EXPECT_EQ(statuses()[1], "ok");
  EXPECT_THAT(statuses()[2], HasSubstr("outside_policy was asked to fail"));

  const Finished mended = run_with(kOutside);
  EXPECT_EQ(mended.status, 0) << mended.err;
  EXPECT_THAT(mended.err, HasSubstr("1 cells computed, 3 reused, 0 failed"));
  EXPECT_EQ(statuses(), (std::vector<std::string>(4, "ok")));
}

TEST_F(Plugins, LibrariesThatCannotBeUsedAreRefused) {
  testing::expect_refused({"list", "quantizers"}, {"GRINQH_PLUGINS", "/nowhere/x.so"},
                          {{"GRINQH_PLUGINS", "/nowhere/x.so"}});
  const std::string text = write("text.so", "no library");
  testing::expect_refused({"list", "quantizers"}, {"GRINQH_PLUGINS", text}, {{"GRINQH_PLUGINS", text}});
  // A copy under another path is another library with the same names.
  const std::string copy = (folder_ / "copy.so").string();
  std::filesystem::copy_file(GRINQH_OUTSIDE_PLUGIN, copy);
  testing::expect_refused({"list", "quantizers"}, {"two plugins register quantizer 'outside'"},
                          {{"GRINQH_PLUGINS", std::string(GRINQH_OUTSIDE_PLUGIN) + ":" + copy}});
}

}  // namespace
}  // namespace grinqh
