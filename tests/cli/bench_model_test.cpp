// bench decode, quantize and gemm as a user runs them.
#include <set>

#include "cli/program.h"

namespace grinqh {
namespace {

using testing::embedded;
using testing::expect_refused;
using testing::Finished;
using ::testing::HasSubstr;
using testing::Words;

// The rows of a command in JSON, so many.
Json rows_of(Words words, size_t count) {
  words.insert(words.end(), {"--format", "json", "--device", "cpu"});
  const Finished finished = testing::run(words);
  EXPECT_EQ(finished.status, 0) << finished.err;
  Json rows = Json::parse(finished.out, nullptr, false);
  if (!rows.is_array() || rows.size() != count) throw std::runtime_error(finished.out + finished.err);
  return rows;
}
Json row_of(const Words& words) { return rows_of(words, 1)[0]; }

Words decode(const Words& more) {
  Words words{"bench", "decode", "--model", embedded("llama-tiny"), "--context", "30", "--tokens", "4"};
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

TEST(BenchDecode, CountsTheBytesOfAStepByHand) {
  const Json row = row_of(decode({"--batch", "2"}));
  const auto real = [&](const char* key) { return row.at(key).get<double>(); };
  // llama-tiny in bfloat16: 8 blocks of 786432 weights, a head of 4096 x 256.
  EXPECT_EQ(row.at("weight_bytes"), 2 * 8 * 786432);
  EXPECT_EQ(row.at("head_bytes"), 2 * 4096 * 256);
  // Keys and values of 2 heads of 64 in float32, 8 blocks, 2 sequences; the steps counted are those timed, at
  // positions 38 to 41 after 8 to warm up.
  EXPECT_EQ(row.at("cache_bytes"), (38 + 39 + 40 + 41) / 2 * 8 * 2 * 2 * 64 * 4);
  EXPECT_DOUBLE_EQ(real("bytes_per_token"),
                   (real("weight_bytes") + real("head_bytes") + real("cache_bytes")) / 2);
  EXPECT_NEAR(real("tokens_per_second") * real("step_us"), 2e6, 1);
  EXPECT_NEAR(real("roof_us"), 2 * real("bytes_per_token") / real("read_gbps") * 1e-3,
              1e-6 * real("roof_us"));
  EXPECT_NEAR(real("roof_ratio"), real("roof_us") / real("step_us"), 1e-6);
  EXPECT_GT(real("split_products_us"), 0);
  EXPECT_GT(real("split_head_us"), 0);
  EXPECT_EQ(row.at("method"), "float");
  EXPECT_TRUE(row.at("read_bits_codes").is_null());
}

TEST(BenchDecode, AMethodAndAHeadReadLess) {
  const Json row = row_of(decode({"--method", "quantizer = \"rtn\", bits = 4, group = 128", "--head",
                                  "quantizer = \"rtn\", bits = 8, group = 128"}));
  EXPECT_EQ(row.at("method"), "rtn");
  EXPECT_DOUBLE_EQ(row.at("read_bits_codes").get<double>(), 4);
  const double total = row.at("read_bits_total").get<double>();
  EXPECT_GT(total, 4);
  EXPECT_LT(total, 4.3);
  EXPECT_NEAR(row.at("weight_bytes").get<double>(), total / 8 * 8 * 786432, 1);
  EXPECT_GT(row.at("head_bytes").get<double>(), 4096 * 256);
  EXPECT_LT(row.at("head_bytes").get<double>(), 1.05 * 4096 * 256);
}

TEST(BenchDecode, OneCommandGivesAllRowsOfATable) {
  const Words method{"--method", "float", "--method",
                     "quantizer = \"grinqh\", policy = { name = \"uniform\", level = [2, 4] }"};
  Words words = decode(method);
  words.insert(words.end(), {"--batch", "1,2", "--head", "float", "--head", "quantizer = \"rtn\", bits = 8"});
  const Json rows = rows_of(words, 12);
  std::set<std::string> different;
  for (const Json& row : rows) {
    std::string key;
    for (const char* column : {"method", "options", "head_method", "batch"}) key += row.at(column).dump();
    different.insert(key);
    if (row.at("method") == "float") continue;
    const bool two = row.at("options").get<std::string>().find("level=2") != std::string::npos;
    EXPECT_DOUBLE_EQ(row.at("read_bits_codes").get<double>(), two ? 2 : 4) << row.at("options");
  }
  EXPECT_EQ(different.size(), rows.size());
}

TEST(BenchDecode, Refusals) {
  const auto refused = [](const Words& more, const std::vector<std::string>& parts) {
    Words words{"bench", "decode", "--model", embedded("llama-tiny"), "--device", "cpu"};
    words.insert(words.end(), more.begin(), more.end());
    expect_refused(words, parts);
  };
  refused({"--context", "100000"}, {"--context 100000", "context is"});
  refused({"--context", "-1"}, {"--context '-1'", "0 to"});
  refused({"--context", "64,100000"}, {"--context 100000", "context is"});
  refused({"--batch", "1,0"}, {"--batch '0'", "1 to"});
  refused({"--tokens", "0"}, {"--tokens 0", "1 to"});
  refused({"--method", "quantizer = \"rtm\""}, {"'rtm'", "rtn"});
  refused({"--head", "quantizer = \"rtn\", bits = 77"}, {"bits", "77"});
  refused({"--format", "yaml"}, {"'yaml'", "json"});
  expect_refused({"bench", "decode"}, {"--model is missing"});
  expect_refused({"bench", "decode", "--model", "nowhere"}, {"nowhere"});
}

TEST(BenchQuantize, TellsThePartsOfTheTime) {
  const Json row = row_of({"bench", "quantize", "--model", embedded("llama-tiny"), "--method",
                           "quantizer = \"gptq\", bits = 3", "--windows", "2", "--context", "64"});
  const auto real = [&](const char* key) { return row.at(key).get<double>(); };
  EXPECT_EQ(row.at("method"), "gptq");
  EXPECT_EQ(row.at("windows"), 2);
  double parts = 0;
  for (const char* part : {"load_seconds", "windows_seconds", "transform_seconds", "calibrate_seconds",
                           "quantize_seconds", "policy_seconds", "pack_seconds"}) {
    EXPECT_GE(real(part), 0) << part;
    parts += real(part);
  }
  EXPECT_GT(real("quantize_seconds"), 0);
  EXPECT_GT(real("calibrate_seconds"), 0);
  EXPECT_NEAR(parts, real("total_seconds"), 0.1 * real("total_seconds") + 0.05);
  EXPECT_GT(real("stored_bits"), 3);
  EXPECT_LT(real("stored_bits"), 3.5);
  EXPECT_GT(real("peak_host_gib"), 0.01);
  EXPECT_TRUE(row.at("peak_device_gib").is_null());
}

TEST(BenchQuantize, ANameStandsForItsDefaults) {
  const Json row = row_of({"bench", "quantize", "--model", embedded("llama-tiny"), "--method", "rtn"});
  EXPECT_EQ(row.at("method"), "rtn");
  EXPECT_TRUE(row.at("windows").is_null());  // nothing is calibrated
}

TEST(BenchQuantize, Refusals) {
  const auto refused = [](const Words& more, const std::vector<std::string>& parts) {
    Words words{"bench", "quantize", "--model", embedded("llama-tiny"), "--device", "cpu"};
    words.insert(words.end(), more.begin(), more.end());
    expect_refused(words, parts);
  };
  refused({}, {"--method is missing"});
  refused({"--method", "rtm"}, {"'rtm'", "rtn"});
  refused({"--method", "quantizer = \"rtn\", bits = [2, 3]"}, {"axis of a sweep"});
  refused({"--method", "rtn", "--windows", "0"}, {"--windows 0", "1 to"});
  refused({"--method", "rtn", "--context", "1000000"}, {"--context 1000000", "max_position_embeddings"});
  refused({"--method", "rtn", "--seed", "-1"}, {"--seed -1", "0 to"});
  refused({"--method", "gptq", "--calibration", "nowhere.txt"}, {"nowhere.txt"});
}

TEST(BenchGemm, RowsOfEveryShapeAndCount) {
  const Finished finished = testing::run({"bench", "gemm", "--device", "cpu", "--shapes", "64x128,128x64",
                                          "--tokens", "1,8", "--repetitions", "3", "--format", "json"});
  ASSERT_EQ(finished.status, 0) << finished.err;
  const Json rows = Json::parse(finished.out, nullptr, false);
  ASSERT_EQ(rows.size(), 4u);
  EXPECT_EQ(rows[1].at("N"), 64);
  EXPECT_EQ(rows[1].at("K"), 128);
  EXPECT_EQ(rows[1].at("tokens"), 8);
  EXPECT_EQ(rows[1].at("arithmetic"), "fp32");
  const double us = rows[1].at("us_median").get<double>();
  EXPECT_NEAR(rows[1].at("tflops").get<double>() * us, 2.0 * 8 * 64 * 128 * 1e-6, 1e-9);
  const Finished csv = testing::run({"bench", "gemm", "--device", "cpu", "--shapes", "64x128", "--tokens",
                                     "1", "--repetitions", "1", "--format", "csv"});
  EXPECT_THAT(csv.out, ::testing::StartsWith("device,arithmetic,N,K,tokens,us_median,tflops\n"));
}

TEST(BenchGemm, Refusals) {
  expect_refused({"bench", "gemm", "--device", "cpu", "--shapes", "a"}, {"--shapes", "'a'", "NxK"});
  expect_refused({"bench", "gemm", "--device", "cpu", "--tokens", "0"}, {"--tokens", "'0'", "1 to"});
  expect_refused({"bench", "gemm", "--device", "cpu", "--repetitions", "0"}, {"--repetitions 0", "1 to"});
  expect_refused({"bench", "gemm", "--device", "cpu", "--format", "x"}, {"'x'", "csv"});
}

}  // namespace
}  // namespace grinqh
