// One forward pass, cut in different ways, gives the same bits. What it should give is golden/'s business.
#include "runtime/transformer.h"

#include "embedded_models.h"
#include "numbers.h"
#include "runtime/generate.h"

namespace grinqh {
namespace {

using testing::embedded_model;
using testing::EmbeddedModel;
using testing::logits_of;

class WholeModel : public ::testing::TestWithParam<const char*> {
 protected:
  const EmbeddedModel& embedded() const { return embedded_model(GetParam()); }
  const Transformer& transformer() const { return embedded().transformer; }

  MatrixBuffer<float> run(const Batch& batch, KvCache* cache = nullptr) const {
    FloatLinears linears;
    return logits_of(transformer(), transformer().run(batch, linears, cache));
  }
};

TEST_P(WholeModel, DecodingWithTheCacheIsTheWholeWindow) {
  constexpr int64_t kTokens = 80;
  const Matrix<const int32_t> window = embedded().windows(1, kTokens);
  const MatrixBuffer<float> whole = run(Batch::of_windows(window, kTokens));
  // A prompt in one call, the rest token by token or a few at a time.
  for (const std::vector<int64_t>& counts :
       {std::vector<int64_t>{20, 30, 1, 29}, std::vector<int64_t>(80, 1)}) {
    KvCache cache = transformer().make_cache(1, kTokens);
    int64_t past = 0;
    for (const int64_t count : counts) {
      Batch batch = Batch::of_windows({window.data + past, 1, count}, count);
      batch.sequences[0].past = past;
      for (Step& step : batch.steps) step.position += static_cast<int32_t>(past);
      const MatrixBuffer<float> part = run(batch, &cache);
      EXPECT_EQ(testing::worst_row_error(part.view(), whole.view().rows_between(past, past + count)), 0.0)
          << "from token " << past;
      past += count;
    }
    ASSERT_EQ(past, kTokens);
  }
}

TEST_P(WholeModel, WindowsOfABatchDoNotSeeEachOther) {
  constexpr int64_t kWindows = 5, kContext = 33;
  const Matrix<const int32_t> windows = embedded().windows(kWindows, kContext);
  const MatrixBuffer<float> together = run(Batch::of_windows(windows, kContext));
  for (int64_t w = 0; w < kWindows; ++w) {
    const MatrixBuffer<float> alone = run(Batch::of_windows(windows.rows_between(w, w + 1), kContext));
    EXPECT_EQ(testing::worst_row_error(alone.view(),
                                       together.view().rows_between(w * kContext, (w + 1) * kContext)),
              0.0);
  }
}

TEST_P(WholeModel, SequencesOfABatchMayHaveDifferentPasts) {
  // Two sequences of one cache, one 12 tokens ahead of the other's 5.
  const Matrix<const int32_t> windows = embedded().windows(2, 20);
  const MatrixBuffer<float> whole = run(Batch::of_windows(windows, 20));
  KvCache cache = transformer().make_cache(2, 20);
  const auto rows = [&](const std::vector<std::pair<int64_t, int64_t>>& spans) {  // past, count of each
    Batch batch;
    for (size_t s = 0; s < spans.size(); ++s) {
      const auto [past, count] = spans[s];
      batch.sequences.push_back({batch.rows(), count, past});
      for (int64_t t = past; t < past + count; ++t) {
        batch.tokens.push_back(windows(static_cast<int64_t>(s), t));
        batch.steps.push_back({Phase::prefill, static_cast<int32_t>(t), 0});
      }
    }
    return batch;
  };
  run(rows({{0, 12}, {0, 5}}), &cache);
  const MatrixBuffer<float> next = run(rows({{12, 2}, {5, 3}}), &cache);
  EXPECT_EQ(testing::worst_row_error(next.view().rows_between(0, 2), whole.view().rows_between(12, 14)), 0.0);
  EXPECT_EQ(testing::worst_row_error(next.view().rows_between(2, 5), whole.view().rows_between(25, 28)), 0.0);
}

TEST_P(WholeModel, ResultsDoNotDependOnThreads) {
  const Batch batch = Batch::of_windows(embedded().windows(3, 50), 50);
  std::vector<std::vector<float>> results;
  for (const int count : {1, 2, 3}) {
    const testing::Threads threads(count);
    const MatrixBuffer<float> logits = run(batch);
    results.emplace_back(logits.data(), logits.data() + logits.size());
  }
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0], results[2]);
}

TEST_P(WholeModel, RefusesWhatItsCacheDoesNotHold) {
  Batch batch = Batch::of_windows(embedded().windows(1, 4), 4);
  batch.sequences[0].past = 2;
  EXPECT_THROW(run(batch), std::logic_error);
  KvCache small = transformer().make_cache(1, 5);
  EXPECT_THROW(run(batch, &small), std::logic_error);
}

TEST_P(WholeModel, GeneratesGreedilyWhatTheWholeWindowPredicts) {
  constexpr int64_t kPrompt = 9, kCount = 12;
  const Matrix<const int32_t> prompts = embedded().windows(2, kPrompt);
  FloatLinears linears;
  const auto generated = generate(transformer(), linears, prompts, kCount, {});
  ASSERT_EQ(generated.size(), 2u);
  for (int64_t s = 0; s < 2; ++s) {
    std::vector<int32_t> all(prompts.row(s), prompts.row(s) + kPrompt);
    all.insert(all.end(), generated[static_cast<size_t>(s)].begin(), generated[static_cast<size_t>(s)].end());
    const auto length = static_cast<int64_t>(all.size());
    ASSERT_EQ(length, kPrompt + kCount);
    const MatrixBuffer<float> logits = run(Batch::of_windows({all.data(), 1, length}, length));
    for (int64_t t = kPrompt; t < length; ++t)
      EXPECT_EQ(all[static_cast<size_t>(t)], argmax(logits.view().row_span(t - 1))) << t;
  }
}

TEST_P(WholeModel, StopsGeneratingWhenTold) {
  FloatLinears linears;
  int tokens = 0;
  const auto generated = generate(transformer(), linears, embedded().windows(1, 4), 10, {},
                                  [&](size_t, int32_t) { return ++tokens < 3; });
  EXPECT_EQ(generated[0].size(), 3u);
}

INSTANTIATE_TEST_SUITE_P(Embedded, WholeModel, ::testing::Values("llama-tiny", "qwen3-tiny"),
                         [](const auto& each) { return std::string(each.param).substr(0, 5); });

TEST(Batches, OfWindowsNumberTheirDecodeSteps) {
  const std::vector<int32_t> tokens{1, 2, 3, 4, 5, 6};
  const Batch batch = Batch::of_windows({tokens.data(), 2, 3}, 1);
  EXPECT_EQ(batch.tokens, tokens);
  ASSERT_EQ(batch.sequences.size(), 2u);
  EXPECT_EQ(batch.sequences[1].first_row, 3);
  EXPECT_EQ(batch.sequences[1].count, 3);
  for (int64_t w = 0; w < 2; ++w)
    for (int64_t t = 0; t < 3; ++t) {
      const Step& step = batch.steps[static_cast<size_t>(w * 3 + t)];
      EXPECT_EQ(step.phase, t < 1 ? Phase::prefill : Phase::decode);
      EXPECT_EQ(step.position, t);
      EXPECT_EQ(step.index, t < 1 ? 0 : t - 1);
    }
}

TEST(Sampling, DrawsTheInverseOfTheCumulatedSoftmax) {
  const std::vector<float> logits{std::log(0.5f), std::log(0.125f), std::log(0.25f), std::log(0.125f)};
  EXPECT_EQ(sample(logits, 1.0, 0.0), 0);
  EXPECT_EQ(sample(logits, 1.0, 0.499), 0);
  EXPECT_EQ(sample(logits, 1.0, 0.501), 1);
  EXPECT_EQ(sample(logits, 1.0, 0.626), 2);
  EXPECT_EQ(sample(logits, 1.0, 0.876), 3);
  EXPECT_EQ(sample(logits, 1.0, 1.0), 0);  // beyond the end by rounding: the likeliest
  // At temperature 1/2 probabilities are squared: 8/11, 0.5/11, 2/11, 0.5/11.
  EXPECT_EQ(sample(logits, 0.5, 0.72), 0);
  EXPECT_EQ(sample(logits, 0.5, 0.74), 1);
  EXPECT_EQ(argmax(std::vector<float>{1, 3, 2, 3}), 1);
}

}  // namespace
}  // namespace grinqh
