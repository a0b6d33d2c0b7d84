// bench kernels, compare and plot as a user runs them.
#include "cli/program.h"

#include <cmath>

#include "cli/kernel_rows.h"
#include "model_files.h"

namespace grinqh {
namespace {

using testing::expect_refused;
using testing::Finished;
using ::testing::HasSubstr;
using testing::TempDir;
using testing::Words;
using testing::write_file;
namespace fs = std::filesystem;

// The layout "dense32" is float32: a kernel that is always there.
Words dense(const Words& more) {
  Words words{"bench", "kernels", "--device", "cpu", "--layouts", "dense32", "--shapes", "1024x4096"};
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

TEST(BenchKernels, CsvHasTheColumnsOfTheContractAndFiguresThatBelongTogether) {
  const TempDir folder;
  const Finished finished = testing::run(dense({"--format", "csv", "--batch", "1,2", "--kernels", "f32"}));
  ASSERT_EQ(finished.status, 0) << finished.err;
  EXPECT_THAT(finished.out,
              ::testing::StartsWith("layout,kernel,device,N,K,batch,bits,bytes,us_median,us_p90,gbps,"
                                    "roof_us,roof_ratio,error\n"));
  const fs::path file = folder / "k.csv";
  write_file(file, finished.out);
  const std::vector<KernelRow> rows = read_kernel_csv(file.string());
  ASSERT_EQ(rows.size(), 2u);
  for (const KernelRow& row : rows) {
    EXPECT_EQ(row.layout, "dense32");
    EXPECT_EQ(row.kernel, "f32");
    EXPECT_EQ(row.n, 1024);
    EXPECT_EQ(row.k, 4096);
    EXPECT_EQ(row.bits, 32);
    EXPECT_EQ(row.bytes, 1024 * 4096 * 4);
    EXPECT_GT(row.us_median, 0);
    EXPECT_GE(row.us_p90, row.us_median);
    EXPECT_NEAR(row.gbps, 16.777216e3 / row.us_median, 0.06);
    EXPECT_NEAR(row.roof_ratio, row.roof_us / row.us_median, 2e-4);
    EXPECT_GT(row.error, 0);
    EXPECT_LT(row.error, 1e-5);
  }
  EXPECT_EQ(rows[0].batch, 1);
  EXPECT_EQ(rows[1].batch, 2);
}

TEST(BenchKernels, JsonAndTextTellTheSameThings) {
  const Finished json = testing::run(dense({"--format", "json", "--kernels", "f32"}));
  ASSERT_EQ(json.status, 0) << json.err;
  const Json rows = Json::parse(json.out, nullptr, false);
  ASSERT_TRUE(rows.is_array() && rows.size() == 1) << json.out;
  EXPECT_EQ(rows[0].at("N"), 1024);
  EXPECT_EQ(rows[0].at("kernel"), "f32");
  const Finished text = testing::run(dense({"--kernels", "f32"}));
  EXPECT_EQ(text.status, 0) << text.err;
  EXPECT_THAT(text.out, HasSubstr("dense32/f32"));
  EXPECT_THAT(text.out, HasSubstr("1024x4096"));
}

TEST(BenchKernels, RefusesToTimeAKernelThatIsWrong) {
  const Finished finished = testing::run(dense({"--format", "csv", "--kernels", "f32,outside_wrong"}),
                                         testing::source_dir(), {{"GRINQH_PLUGINS", GRINQH_OUTSIDE_PLUGIN}});
  EXPECT_EQ(finished.status, 1);
  EXPECT_THAT(finished.out, HasSubstr("dense32,f32,"));  // the others are timed
  EXPECT_THAT(finished.out, ::testing::Not(HasSubstr("outside_wrong")));
  EXPECT_THAT(finished.err, HasSubstr("dense32/outside_wrong 1024x4096"));
  EXPECT_THAT(finished.err, HasSubstr("2.0e-03 allowed"));
}

TEST(BenchKernels, SaysWhichKernelTakesNothing) {
  const Finished finished = testing::run(dense({"--kernels", "outside_none"}), testing::source_dir(),
                                         {{"GRINQH_PLUGINS", GRINQH_OUTSIDE_PLUGIN}});
  EXPECT_EQ(finished.status, 1);
  EXPECT_THAT(finished.err, HasSubstr("outside_none does not take 1024 x 4096"));
  EXPECT_THAT(finished.err, HasSubstr("nothing was timed"));
}

TEST(BenchKernels, Refusals) {
  const auto refused = [](const Words& more, const std::vector<std::string>& parts) {
    Words words{"bench", "kernels", "--device", "cpu"};
    words.insert(words.end(), more.begin(), more.end());
    expect_refused(words, parts);
  };
  refused({"--layouts", "nexted"}, {"'nexted'", "known:", "did you mean 'nested'"});
  refused({"--layouts", "dense32,group_affine/g65"}, {"'group_affine/g65'", "group_affine/g64"});
  refused({"--kernels", "f33"}, {"'f33'", "f32"});
  refused({"--shapes", "4096"}, {"--shapes", "'4096'", "NxK"});
  refused({"--shapes", "4096x0"}, {"--shapes", "'0'", "1 to"});
  refused({"--shapes", "4096xa"}, {"--shapes", "'a'"});
  refused({"--batch", "9"}, {"--batch", "'9'", "1 to 8"});
  refused({"--bits", "two"}, {"--bits", "'two'"});
  refused({"--layouts", "dense32", "--bits", "3"}, {"--bits 3", "none"});
  refused({"--repetitions", "14"}, {"--repetitions 14", "15 to 10000"});
  refused({"--format", "xml"}, {"format", "'xml'", "csv"});
  expect_refused({"bench", "kernels", "--device", "gpu"}, {"'gpu'", "auto, cpu, cuda"});
}

constexpr const char* kHeader =
    "layout,kernel,device,N,K,batch,bits,bytes,us_median,us_p90,gbps,roof_us,roof_ratio,error\n";

class BenchFiles : public ::testing::Test {
 protected:
  BenchFiles() {
    write_file(ours(), std::string(kHeader) +
                           "nested,streamed,Card,4096,4096,1,2,4325376,4.0,4.1,1081,3.0,0.75,1e-4\n"
                           "nested,streamed/graded,Card,4096,4096,1,2.5,5000000,5.0,5.1,1000,3.2,0.64,1e-4\n"
                           "nested,streamed,Card,4096,4096,4,2,4325376,4.5,4.6,961,3.0,0.67,1e-4\n");
    write_file(peers(),
               "peer,kernel,bits_nominal,N,K,us_median,pct_of_roof_same_bytes,note\n"
               "ceiling,read,0,0,0,3.0,100,\n"
               "lab,two_bits,2,4096,4096,8.0,50,x\n"
               "lab,four_bits,4,4096,4096,6.0,60,x\n"
               "lab,other_shape,4,14336,4096,6.0,60,x\n"
               "lab,one_bit,1,4096,4096,1.0,nan,x\n");
  }
  fs::path ours() const { return folder_ / "ours.csv"; }
  fs::path peers() const { return folder_ / "peers.csv"; }
  TempDir folder_;
};

TEST_F(BenchFiles, ComparesWithPeersOfTheSameShapeAtAsManyBitsOrMore) {
  const Finished csv =
      testing::run({"bench", "compare", "--peers", peers().string(), ours().string(), "--format", "csv"});
  ASSERT_EQ(csv.status, 0) << csv.err;
  // 2 bits against 2 and 4, 2.5 against 4; one token alone.
  const std::vector<std::string> lines = split(csv.out, '\n');
  ASSERT_EQ(lines.size(), 5u) << csv.out;  // the last one is empty
  EXPECT_EQ(lines[1],
            "nested,streamed,Card,4096,4096,2,4.0000,0.7500,lab two_bits,2,8.0000,0.5000,2.0000,1.5000");
  EXPECT_THAT(lines[2], HasSubstr("lab four_bits,4,6.0000,0.6000,1.5000,1.2500"));
  EXPECT_THAT(lines[3], ::testing::StartsWith("nested,streamed/graded,Card,4096,4096,2.5,"));
  EXPECT_THAT(lines[3], HasSubstr("lab four_bits,4,6.0000,0.6000,1.2000,1.0667"));
  const Finished text = testing::run({"bench", "compare", "--peers", peers().string(), ours().string()});
  ASSERT_EQ(text.status, 0) << text.err;
  EXPECT_THAT(text.out, HasSubstr("2/2"));
  EXPECT_THAT(text.out, HasSubstr("lab four_bits (4 b)"));
}

TEST_F(BenchFiles, APlotsScriptHoldsTheRoofAndEveryKernel) {
  const fs::path script = folder_ / "plot.gnuplot";
  const Finished finished =
      testing::run({"bench", "plot", ours().string(), "--out", script.string(), "--title", "A \"title\""});
  ASSERT_EQ(finished.status, 0) << finished.err;
  const std::string text = read_file(script.string(), "script");
  EXPECT_THAT(text, HasSubstr("$roof << EOD\n4.325376 3\n5 3.2\nEOD\n"));
  EXPECT_THAT(text, HasSubstr("title \"nested/streamed\""));
  EXPECT_THAT(text, HasSubstr("title \"nested/streamed, 4 tokens\""));
  EXPECT_THAT(text, HasSubstr("set title \"A \\\"title\\\"\""));
  if (std::system("command -v gnuplot > /dev/null 2>&1") != 0) GTEST_SKIP() << "gnuplot is not installed";
  const fs::path picture = folder_ / "plot.svg";
  EXPECT_EQ(testing::run({"bench", "plot", ours().string(), "--out", picture.string()}).status, 0);
  EXPECT_THAT(read_file(picture.string(), "picture"), HasSubstr("</svg>"));
}

TEST_F(BenchFiles, Refusals) {
  const std::string good = ours().string(), theirs = peers().string();
  const fs::path bad = folder_ / "bad.csv";
  const auto bad_ours = [&](const std::string& text, const std::vector<std::string>& parts) {
    write_file(bad, text);
    expect_refused({"bench", "compare", "--peers", theirs, bad.string()}, parts);
    expect_refused({"bench", "plot", bad.string(), "--out", "x.gnuplot"}, parts);
  };
  bad_ours("layout,kernel\n", {"bad.csv:1", "'layout,kernel'", "roof_ratio"});
  bad_ours(std::string(kHeader) + "a,b,c,1\n", {"bad.csv:2", "4 columns", "14"});
  bad_ours(std::string(kHeader) + "a,b,c,1,2,1,two,1,1,1,1,1,1,1\n", {"bad.csv:2", "'bits'", "'two'"});
  bad_ours(kHeader, {"bad.csv", "no timings"});
  const auto bad_peers = [&](const std::string& text, const std::vector<std::string>& parts) {
    write_file(bad, text);
    expect_refused({"bench", "compare", "--peers", bad.string(), good}, parts);
  };
  const std::string header = "peer,kernel,bits_nominal,N,K,us_median,pct_of_roof_same_bytes\n";
  bad_peers("peer,kernel\n", {"bad.csv:1", "'bits_nominal'", "missing"});
  bad_peers(header + "a,b\n", {"bad.csv:2", "2 columns", "7"});
  bad_peers(header + "a,b,x,1,1,1,1\n", {"bad.csv:2", "'bits_nominal'", "'x'"});
  bad_peers(header, {"bad.csv", "no timings"});
  bad_peers(header + "a,b,4,64,64,1,1\n", {"no row", "bad.csv"});
  expect_refused({"bench", "compare", "--peers", "nowhere.csv", good}, {"nowhere.csv"});
  expect_refused({"bench", "compare", "--peers", theirs}, {"OURS.csv is missing"});
  expect_refused({"bench", "compare", good}, {"--peers is missing"});
  expect_refused({"bench", "compare", "--peers", theirs, good, "--format", "json"}, {"'json'", "csv"});
  expect_refused({"bench", "plot", good}, {"--out is missing"});
  expect_refused({"bench", "plot", good, "--out", "x.pdf"}, {"x.pdf", ".svg or .gnuplot"});
  expect_refused({"bench", "plot", good, "--out", (folder_ / "none" / "x.gnuplot").string()},
                 {"x.gnuplot", "cannot be written"});
  expect_refused({"bench", "plot", good, "--out", "x.svg"}, {"gnuplot-nox", ".gnuplot"},
                 {{"PATH", (folder_ / "nothing").string()}});
  write_file(bad, std::string(kHeader) + "a,b,Other,1,2,1,2,1,1,1,1,1,1,1\n");
  expect_refused({"bench", "plot", good, bad.string(), "--out", "x.gnuplot"}, {"Card", "Other"});
}

}  // namespace
}  // namespace grinqh
