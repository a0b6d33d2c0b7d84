// The decoder that runs the transformer step by step, and what every decoder promises.
#include <gtest/gtest.h>

#include <cmath>

#include "core/rng.h"
#include "embedded_models.h"
#include "kernels/group_affine/layout.h"
#include "runtime/generate.h"

namespace grinqh {
namespace {

using testing::embedded_model;

struct Begun {
  explicit Begun(const DecodePlan& plan, LinearExecutor& linears, const Sampling& sampling = {})
      : decoder(transformer().make_decoder(linears, plan)) {
    const Matrix<const int32_t> prompts = embedded_model("llama-tiny").windows(plan.sequences, kPrompt + 1);
    Batch batch;
    std::vector<int32_t> tokens;
    for (int64_t s = 0; s < prompts.rows; ++s) {
      batch.sequences.push_back({batch.rows(), kPrompt, 0});
      batch.tokens.insert(batch.tokens.end(), prompts.row(s), prompts.row(s) + kPrompt);
      for (int32_t t = 0; t < kPrompt; ++t) batch.steps.push_back({Phase::prefill, t, 0});
      tokens.push_back(prompts.row(s)[kPrompt]);
    }
    transformer().run(batch, linears, &decoder->cache());
    decoder->begin(tokens, std::vector<int32_t>(tokens.size(), kPrompt), sampling, 3);
  }
  static const Transformer& transformer() { return embedded_model("llama-tiny").transformer; }
  static constexpr int32_t kPrompt = 12;

  std::unique_ptr<Decoder> decoder;
};

TEST(Decoder, DrawsFromItsLogitsAndItsStreamsOfChance) {
  FloatLinears linears;
  const Sampling sampling{0.9, 5, 2};
  const Begun begun({2, 20}, linears, sampling);
  std::vector<Rng> random;
  for (uint64_t s = 0; s < 2; ++s) {
    random.emplace_back(sampling.seed, sampling.first_stream + s);
    for (int draw = 0; draw < 3; ++draw) random.back().uniform();
  }
  MatrixBuffer<float> logits(2, Begun::transformer().vocab());
  for (int step = 0; step < 4; ++step) {
    begun.decoder->advance();
    const std::vector<int32_t> tokens = begun.decoder->read();
    begun.decoder->logits(logits);
    for (size_t s = 0; s < 2; ++s)
      EXPECT_EQ(tokens[s], sample(logits.view().row_span(static_cast<int64_t>(s)), 0.9, random[s].uniform()));
  }
}

TEST(Decoder, RefusesStepsThatNobodyReadsOrCachesDoNotHold) {
  FloatLinears linears;
  const Begun begun({1, Begun::kPrompt + 2}, linears);
  EXPECT_THROW(begun.decoder->read(), std::logic_error);
  for (int64_t i = 0; i < begun.decoder->most_ahead(); ++i) begun.decoder->advance();
  EXPECT_THROW(begun.decoder->advance(), std::logic_error);
  begun.decoder->read();
  begun.decoder->advance();
  begun.decoder->read();
  EXPECT_THROW(begun.decoder->advance(), std::logic_error);
}

TEST(Decoder, CountsTheBytesOfAStep) {
  FloatLinears linears;
  const Begun begun({2, 20}, linears);
  begun.decoder->advance();
  begun.decoder->read();
  const DecodeBytes bytes = begun.decoder->bytes();
  const ModelConfig& config = Begun::transformer().model().config;
  const int64_t heads = config.heads * config.head_dim, kv = config.kv_heads * config.head_dim;
  const int64_t weights = config.layers * (config.hidden * (2 * heads + 2 * kv + 3 * config.intermediate));
  EXPECT_EQ(bytes.weights, weights * size_of(Begun::transformer().model().blocks[0].q.weight.dtype));
  EXPECT_EQ(bytes.cache, 2 * Begun::kPrompt * 2 * config.layers * kv * 4);
  EXPECT_EQ(bytes.head, config.vocab * config.hidden * size_of(Begun::transformer().model().head.dtype));
  EXPECT_EQ(bytes.total(), bytes.weights + bytes.cache + bytes.head);
  const DecodeSplit split = begun.decoder->split();
  EXPECT_GT(split.products, 0);
  EXPECT_GT(split.head, 0);
}

// A head whose codes are the weights: scale 1, values on the grid.
TEST(Decoder, TakesAnotherHead) {
  FloatLinears linears;
  const Transformer& transformer = Begun::transformer();
  const int64_t vocab = transformer.vocab(), hidden = transformer.hidden();
  MatrixBuffer<uint8_t> codes(vocab, hidden);
  for (int64_t i = 0; i < codes.size(); ++i) codes.data()[i] = static_cast<uint8_t>(i * 7 % 13);
  const GroupAffineShape shape{vocab, hidden, 8, 0, true};
  MatrixBuffer<uint16_t> scales(vocab, 1);
  for (int64_t n = 0; n < vocab; ++n) scales.row(n)[0] = 0x2000;  // 2^-7
  const MatrixBuffer<uint8_t> zeros(vocab, 1);
  const GroupAffineLinear head(shape, codes.view(), scales.view(), zeros.view());
  const Begun own({1, 20}, linears), other({1, 20, &head}, linears);
  for (const Begun* each : {&own, &other}) {
    each->decoder->advance();
    each->decoder->read();
  }
  MatrixBuffer<float> first(1, vocab), second(1, vocab);
  own.decoder->logits(first);
  other.decoder->logits(second);
  // Logits of the checkpoint's head determine nothing about the other's; both come from the same features,
  // which a step of the transformer gives.
  KvCache cache = transformer.make_cache(1, 20);
  const Matrix<const int32_t> window = embedded_model("llama-tiny").windows(1, Begun::kPrompt + 1);
  Batch batch = Batch::of_windows(window, Begun::kPrompt);
  const Tensor features = transformer.run(batch, linears, &cache);
  const MatrixBuffer<float> w = head.dequantize();
  double worst = 0, size = 0;
  for (int64_t n = 0; n < vocab; ++n) {
    double expected = 0;
    for (int64_t i = 0; i < hidden; ++i)
      expected += static_cast<double>(w.row(n)[i]) * static_cast<double>(features.row(Begun::kPrompt)[i]);
    worst = std::max(worst, std::abs(expected - static_cast<double>(second.row(0)[n])));
    size = std::max(size, std::abs(expected));
  }
  EXPECT_LE(worst, 1e-3 * size);
  EXPECT_EQ(other.decoder->bytes().head, head.stored_bits().total() / 8);
  EXPECT_NE(own.decoder->bytes().head, other.decoder->bytes().head);
}

TEST(Decoder, FillsACacheWithWhatNoPromptMade) {
  const Transformer& transformer = Begun::transformer();
  FloatLinears linears;
  const DecodePlan plan{2, 16};
  const auto decoder = transformer.make_decoder(linears, plan);
  fill_cache(transformer, decoder->cache(), plan, 10);
  for (int64_t block = 0; block < transformer.blocks(); ++block)
    for (size_t s = 0; s < 2; ++s) {
      const MatrixBuffer<float> keys =
          transformer.to_host(decoder->cache().keys(block, s).rows_between(0, 10));
      double squares = 0;
      for (int64_t i = 0; i < keys.size(); ++i) squares += std::pow(static_cast<double>(keys.data()[i]), 2);
      EXPECT_NEAR(squares / static_cast<double>(keys.size()), 1.0, 0.2);
    }
  EXPECT_THROW(fill_cache(transformer, decoder->cache(), plan, 17), std::logic_error);
}

}  // namespace
}  // namespace grinqh
