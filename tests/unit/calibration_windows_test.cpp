#include "calib/calibration_windows.h"

#include "core/progress.h"
#include "core/vector_math.h"
#include "embedded_models.h"
#include "numbers.h"

namespace grinqh {
namespace {

using Rows = std::vector<std::vector<int32_t>>;

Rows rows_of(const MatrixBuffer<int32_t>& windows) {
  Rows rows;
  for (int64_t w = 0; w < windows.rows(); ++w)
    rows.emplace_back(windows.row(w), windows.row(w) + windows.cols());
  return rows;
}

TEST(SpreadWindows, StartAtEvenDistances) {
  const std::vector<int32_t> tokens{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
  // Starts floor(i (11 - 4) / 2) = 0, 3, 7.
  EXPECT_EQ(rows_of(spread_windows(tokens, 3, 4)), (Rows{{0, 1, 2, 3}, {3, 4, 5, 6}, {7, 8, 9, 10}}));
  EXPECT_EQ(rows_of(spread_windows(tokens, 1, 4)), (Rows{{0, 1, 2, 3}}));
  EXPECT_EQ(rows_of(spread_windows(tokens, 2, 11)), (Rows{tokens, tokens}));
  EXPECT_THROW(spread_windows(tokens, 2, 12), std::logic_error);
}

class SampledWindows : public ::testing::TestWithParam<const char*> {
 protected:
  SampledWindows() { Progress::set_enabled(false); }
  const Transformer& transformer() const { return testing::embedded_model(GetParam()).transformer; }
};

TEST_P(SampledWindows, DependOnTheSeedAlone) {
  const Rows first = rows_of(sample_windows(transformer(), 19, 12, 7));
  ASSERT_EQ(first.size(), 19u);
  {
    const testing::Threads threads(3);
    EXPECT_EQ(rows_of(sample_windows(transformer(), 19, 12, 7)), first);
  }
  // More windows begin with the same ones, although they are sampled in other batches.
  Rows more = rows_of(sample_windows(transformer(), 35, 12, 7));
  more.resize(19);
  EXPECT_EQ(more, first);
  EXPECT_NE(rows_of(sample_windows(transformer(), 19, 12, 8)), first);
  EXPECT_NE(first[0], first[1]);
}

TEST_P(SampledWindows, AreDrawnFromTheModel) {
  constexpr int64_t kWindows = 16, kContext = 48;
  const ModelConfig& config = transformer().model().config;
  const MatrixBuffer<int32_t> windows = sample_windows(transformer(), kWindows, kContext, 1);
  // Each after the start token, which is no part of it.
  MatrixBuffer<int32_t> started(kWindows, kContext + 1);
  for (int64_t w = 0; w < kWindows; ++w) {
    started.row(w)[0] = static_cast<int32_t>(config.bos_token >= 0 ? config.bos_token : config.eos_tokens[0]);
    std::copy_n(windows.row(w), kContext, started.row(w) + 1);
  }
  FloatLinears linears;
  const MatrixBuffer<float> logits = testing::logits_of(
      transformer(), transformer().run(Batch::of_windows(started.view(), kContext + 1), linears));
  // Surprise minus entropy has mean zero at every token, its variance under the model is known.
  double difference = 0, variance = 0;
  for (int64_t w = 0; w < kWindows; ++w)
    for (int64_t t = 0; t < kContext; ++t) {
      const std::span<const float> row = logits.view().row_span(w * (kContext + 1) + t);
      const double total = log_sum_exp(row);
      double entropy = 0, square = 0;
      for (const float logit : row) {
        const double surprise = total - static_cast<double>(logit);
        entropy += std::exp(-surprise) * surprise;
        square += std::exp(-surprise) * surprise * surprise;
      }
      difference += total - static_cast<double>(row[static_cast<size_t>(windows.row(w)[t])]) - entropy;
      variance += square - entropy * entropy;
    }
  EXPECT_LT(std::abs(difference), 4 * std::sqrt(variance));
  EXPECT_GT(variance, 100);  // that there was something to draw
}

INSTANTIATE_TEST_SUITE_P(Embedded, SampledWindows, ::testing::Values("llama-tiny", "qwen3-tiny"),
                         [](const auto& each) { return std::string(each.param).substr(0, 5); });

}  // namespace
}  // namespace grinqh
