// grinqh run, from the file to the report.
#include <cmath>

#include "cli/sweep.h"
#include "store/columns.h"

namespace grinqh {
namespace {

using ::testing::AllOf;
using testing::embedded;
using testing::Finished;
using ::testing::Ge;
using ::testing::Gt;
using ::testing::HasSubstr;
using ::testing::Le;
using ::testing::SizeIs;
using testing::Words;

class Run : public testing::Sweep {};

double real(const Json& row, const char* key) { return row.at(key).get<double>(); }

TEST_F(Run, RowsHaveEveryColumnWithValuesThatMakeSense) {
  const Finished finished = run_sweep("out");
  ASSERT_EQ(finished.status, 0) << finished.err;
  EXPECT_THAT(finished.err, HasSubstr("3 cells computed, 0 reused, 0 failed"));
  EXPECT_THAT(finished.out, AllOf(HasSubstr("llama-tiny"), HasSubstr("rtn"), HasSubstr("grinqh bits=3.0")));

  const Json rows = testing::report_rows(folder_ / "out", {"--sort", "order"});
  ASSERT_THAT(rows, SizeIs(3));
  for (const Json& row : rows) {
    SCOPED_TRACE(row.dump(1));
    auto key = row.begin();
    for (const Column& column : kRowColumns) {
      ASSERT_EQ((key++).key(), column.name);
      const Json& value = row.at(column.name);
      if (column.name == "options")
        EXPECT_TRUE(value.is_object());
      else if (column.kind == ColumnKind::text)
        EXPECT_TRUE(value.is_string()) << column.name;
      else if (column.kind == ColumnKind::integer)
        EXPECT_TRUE(value.is_number_integer()) << column.name;
      else
        EXPECT_TRUE(value.is_number_float()) << column.name;
    }
    EXPECT_EQ(row.at("model"), "llama-tiny");
    EXPECT_EQ(row.at("device"), "cpu");
    EXPECT_EQ(row.at("dataset"), "held.txt");
    EXPECT_EQ(row.at("phase"), "decode");
    EXPECT_EQ(row.at("context"), 128);
    EXPECT_EQ(row.at("tokens").get<int64_t>() % 127, 0) << "whole windows, their first tokens unscored";
    EXPECT_GE(row.at("tokens").get<int64_t>(), 3 * 127);
    EXPECT_EQ(row.at("seed"), 0);
    EXPECT_EQ(row.at("status"), "ok");
    EXPECT_GT(real(row, "perplexity"), 1.0);
    EXPECT_LT(real(row, "perplexity"), 4096.0) << "better than guessing among all tokens";
    EXPECT_EQ(real(row, "perplexity_float"), real(rows[0], "perplexity_float"));
    EXPECT_GT(real(row, "kl_mean"), 0.0);
    EXPECT_GT(real(row, "kl_p99"), real(row, "kl_mean"));
    EXPECT_THAT(real(row, "top1_agreement"), AllOf(Gt(0.0), Le(1.0)));
    EXPECT_GT(real(row, "read_bits_total"), real(row, "read_bits_codes"));
    EXPECT_GE(real(row, "stored_bits"), real(row, "read_bits_total"));
    EXPECT_GT(real(row, "quantize_seconds"), 0.0);
    EXPECT_GT(real(row, "evaluate_seconds"), 0.0);
  }
  // By hand, llama-tiny, 786432 weights a block of 256 (three quarters) and 768 inputs: codes, a float16
  // scale a group, and zero points packed to whole bytes a row (one byte for 2 groups of 4 or 2 bits, 3 bytes
  // for 6 of 4 bits, 2 bytes for 6 of 2 bits).
  EXPECT_DOUBLE_EQ(real(rows[0], "stored_bits"), 4 + 16 / 128. + 8 / 256.);
  EXPECT_DOUBLE_EQ(real(rows[1], "stored_bits"), 2 + 16 / 128. + 0.75 * 8 / 256. + 0.25 * 16 / 768.);
  for (const int i : {0, 1})
    EXPECT_NEAR(real(rows[i], "read_bits_total"), real(rows[i], "stored_bits"), 1e-12);
  EXPECT_EQ(real(rows[0], "read_bits_codes"), 4.0);
  EXPECT_EQ(real(rows[1], "read_bits_codes"), 2.0);
  EXPECT_THAT(real(rows[2], "read_bits_codes"), AllOf(Ge(2.7), Le(3.3))) << "aimed at 3";
  EXPECT_GT(real(rows[2], "stored_bits"), 8.0);
  EXPECT_LT(real(rows[0], "kl_mean"), real(rows[1], "kl_mean")) << "4 bits diverge less than 2";
  EXPECT_EQ(rows[0].at("options").at("bits"), 4);
  EXPECT_EQ(rows[2].at("options").at("policy").at("bits"), 3.0);
  EXPECT_EQ(rows[2].at("policy"), "grinqh");

  const Finished eval =
      testing::run({"eval", "--model", embedded("llama-tiny"), "--text", (folder_ / "held.txt").string(),
                    "--context", "128", "--format", "json"});
  ASSERT_EQ(eval.status, 0) << eval.err;
  const Json figures = Json::parse(eval.out);
  EXPECT_NEAR(real(figures, "perplexity") / real(rows[0], "perplexity_float"), 1.0, 1e-6);
  EXPECT_EQ(figures.at("tokens"), rows[0].at("tokens"));

  // Again: everything is there, the table is the same.
  const Finished again = run_sweep("out");
  EXPECT_EQ(again.status, 0);
  EXPECT_THAT(again.err, HasSubstr("0 cells computed, 3 reused, 0 failed"));
  EXPECT_EQ(again.out, finished.out);
}

TEST_F(Run, FreshComputesAgain) {
  write("sweep.toml", toml("[[methods]]\nquantizer = \"rtn\"\n"));
  ASSERT_EQ(run_sweep("out").status, 0);
  const std::vector<Json> before = figures("out");
  EXPECT_THAT(run_sweep("out", {"--fresh"}).err, HasSubstr("1 cells computed, 0 reused"));
  EXPECT_EQ(figures("out"), before);
}

TEST_F(Run, ADryRunTellsThePlanAndWritesNothing) {
  const Finished plan = run_sweep("out", {"--dry-run"});
  EXPECT_EQ(plan.status, 0) << plan.err;
  EXPECT_EQ(plan.out,
            "to compute llama-tiny rtn bits=4 group=128\n"
            "to compute llama-tiny rtn bits=2 group=128\n"
            "to compute llama-tiny grinqh group=128 levels=[0,2,4,8], grinqh bits=3.0\n");
  EXPECT_FALSE(std::filesystem::exists(folder_ / "out"));
}

TEST_F(Run, SetChangesWhatTheFileSays) {
  const Words set{"--set", "methods.0.bits=[8, 3]",
                  "--set", "seed=7",
                  "--set", "methods.1.policy={ name = \"grinqh\", bits = [3.5, 2] }"};
  Words plan = set;
  plan.push_back("--dry-run");
  EXPECT_EQ(run_sweep("out", plan).out,
            "to compute llama-tiny rtn bits=8 group=128\n"
            "to compute llama-tiny rtn bits=3 group=128\n"
            "to compute llama-tiny grinqh group=128 levels=[0,2,4,8], grinqh bits=3.5\n"
            "to compute llama-tiny grinqh group=128 levels=[0,2,4,8], grinqh bits=2\n");
  ASSERT_EQ(
      run_sweep("out", {"--set", "methods=[{ quantizer = \"rtn\", bits = 8 }]", "--set", "seed=7"}).status,
      0);
  const Json rows = testing::report_rows(folder_ / "out");
  ASSERT_THAT(rows, SizeIs(1));
  EXPECT_EQ(rows[0].at("seed"), 7);
  EXPECT_EQ(rows[0].at("options").at("bits"), 8);
}

TEST_F(Run, AnyCellRunsAgainFromItsOwnFile) {
  ASSERT_EQ(run_sweep("out").status, 0);
  const std::vector<Json> rows = figures("out");
  for (const std::filesystem::path& file : results("out")) {
    const Finished again = testing::run({"run", file.string(), "--out", (folder_ / "again").string()});
    EXPECT_EQ(again.status, 0) << again.err;
    EXPECT_THAT(again.err, HasSubstr("1 cells computed, 0 reused"));
  }
  std::vector<Json> repeated = figures("again");
  ASSERT_THAT(repeated, SizeIs(3));
  const auto comparable = [](std::vector<Json> all) {
    std::vector<std::string> texts;
    for (Json& row : all) {
      for (const char* key : {"order", "label"}) row.erase(key);  // the place in the sweep, and its words
      texts.push_back(row.dump());
    }
    std::ranges::sort(texts);
    return texts;
  };
  EXPECT_EQ(comparable(repeated), comparable(rows));
}

TEST_F(Run, TheNumberOfThreadsDoesNotMatter) {
  ASSERT_EQ(run_sweep("one", {"--threads", "1"}).status, 0);
  ASSERT_EQ(run_sweep("two", {"--threads", "2"}).status, 0);
  const std::vector<Json> one = figures("one"), two = figures("two");
  ASSERT_THAT(one, SizeIs(3));
  for (size_t i = 0; i < one.size(); ++i)
    for (const auto& [key, value] : one[i].items()) {
      if (value.is_number_float())
        EXPECT_NEAR(value.get<double>(), real(two[i], key.c_str()), 1e-6 * std::abs(value.get<double>()))
            << key;
      else
        EXPECT_EQ(value, two[i].at(key)) << key;
    }
}

TEST_F(Run, PhasesDifferWhereTheyShould) {
  write(
      "sweep.toml",
      toml("[[methods]]\nquantizer = \"grinqh\"\npolicy = { name = \"uniform\", level = 2 }\n") +
          "phase = \"decode\"\n"
          "[[evaluations]]\nkind = \"perplexity\"\ntext = \"held.txt\"\ncontext = 128\nphase = \"prefill\"\n"
          "[[evaluations]]\nkind = \"perplexity\"\ntext = \"held.txt\"\ncontext = 128\nphase = "
          "\"continuation\"\n"
          "prefill_tokens = 100\n");
  const Finished finished = run_sweep("out");
  ASSERT_EQ(finished.status, 0) << finished.err;
  const Json rows = testing::report_rows(folder_ / "out");
  ASSERT_THAT(rows, SizeIs(3));
  EXPECT_EQ(real(rows[0], "read_bits_codes"), 2.0);
  EXPECT_EQ(real(rows[1], "read_bits_codes"), 8.0) << "prompts at the full level";
  EXPECT_EQ(real(rows[2], "read_bits_codes"), 2.0);
  EXPECT_LT(real(rows[1], "perplexity"), real(rows[0], "perplexity"));
  const int64_t windows = rows[0].at("tokens").get<int64_t>() / 127;
  EXPECT_EQ(rows[2].at("tokens").get<int64_t>(), windows * 28) << "tokens 100 to 127 of each window";
  EXPECT_TRUE(rows[1].at("kl_mean").is_null()) << "no reference was asked for";
}

}  // namespace
}  // namespace grinqh
