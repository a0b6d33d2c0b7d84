#include "eval/windows.h"

#include "model_files.h"

namespace grinqh {
namespace {

ModelConfig config_of(int64_t max_context) {
  ModelConfig config;
  config.max_context = max_context;
  config.bos_token = 99;
  return config;
}

const std::vector<int32_t> kTokens{10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20};

using Rows = std::vector<std::vector<int32_t>>;

Rows rows_of(const Windows& windows) {
  Rows rows;
  for (int64_t w = 0; w < windows.count(); ++w)
    rows.emplace_back(windows.tokens.row(w), windows.tokens.row(w) + windows.context());
  return rows;
}

Windows cut(std::string_view protocol, int64_t context, bool adds_bos) {
  return cut_windows(protocol, kTokens, context, config_of(64), adds_bos, "text.txt");
}

TEST(Windows, AreSideBySideAndDropTheTail) {
  for (const bool adds_bos : {false, true}) {
    const Windows windows = cut("windows", 4, adds_bos);
    EXPECT_EQ(rows_of(windows), (Rows{{10, 11, 12, 13}, {14, 15, 16, 17}}));
    EXPECT_EQ(windows.first_scored, 1);
  }
  EXPECT_EQ(rows_of(cut("windows", 11, false)), Rows{kTokens});
}

TEST(Windows, OfGptqStartWithOneBosIfTheTokenizerAddsIt) {
  const Windows windows = cut("gptq", 4, true);
  EXPECT_EQ(rows_of(windows), (Rows{{99, 10, 11, 12}, {13, 14, 15, 16}, {17, 18, 19, 20}}));
  EXPECT_EQ(windows.first_scored, 1);
  EXPECT_EQ(rows_of(cut("gptq", 4, false)), rows_of(cut("windows", 4, false)));
}

TEST(Windows, OfLlamaCppHaveABosEachAndScoreTheSecondHalf) {
  const Windows windows = cut("llama.cpp", 4, true);
  EXPECT_EQ(rows_of(windows), (Rows{{99, 10, 11, 12}, {99, 14, 15, 16}, {99, 18, 19, 20}}));
  // llama-perplexity scores n_ctx - n_ctx / 2 - 1 tokens of a window.
  EXPECT_EQ(windows.context() - windows.first_scored, 4 - 4 / 2 - 1);
  const Windows odd = cut("llama.cpp", 5, false);
  EXPECT_EQ(rows_of(odd), rows_of(cut("windows", 5, false)));
  EXPECT_EQ(odd.context() - odd.first_scored, 5 - 5 / 2 - 1);
}

TEST(Windows, RefusalsNameSourceAndLimits) {
  EXPECT_REFUSED(cut("windows", 12, false), "text.txt", "11 tokens", "one window needs 12");
  EXPECT_REFUSED(cut("windows", 1, false), "text.txt", "context = 1", "2 to 64");
  EXPECT_REFUSED(cut("windows", 65, false), "text.txt", "context = 65", "2 to 64", "max_position_embeddings");
  EXPECT_REFUSED(cut("llama.cpp", 2, false), "text.txt", "context = 2", "3 to 64");
  EXPECT_REFUSED(cut_windows("windows", {}, 4, config_of(64), false, "empty.txt"), "empty.txt", "0 tokens");
}

}  // namespace
}  // namespace grinqh
