// Generating with the kernels for few tokens against generating with the exact ones.
#include "numbers.h"
#include "quantized_embedded.h"
#include "runtime/generate.h"

namespace grinqh {
namespace {

using testing::logits_of;

constexpr int64_t kPrompt = 20, kTokens = 24;

struct Case {
  const char *model, *method;
  bool graded = false;  // every token's channels by their inputs
};
void PrintTo(const Case& each, std::ostream* out) { *out << each.model << " " << each.method; }

struct Quantized : testing::QuantizedEmbedded {
  explicit Quantized(const Case& each) : QuantizedEmbedded(each.model, each.method) {}

  // Logits after the prompt and after each of the tokens that follow it.
  MatrixBuffer<float> logits_along(QuantizedExecutor& linears, std::span<const int32_t> tokens) const {
    const Transformer& transformer = embedded.transformer;
    KvCache cache = transformer.make_cache(1, kPrompt + kTokens);
    MatrixBuffer<float> logits(kTokens, transformer.vocab());
    for (int64_t t = 0; t < kTokens; ++t) {
      Batch batch = Batch::of_windows(embedded.windows(1, kPrompt), kPrompt);
      if (t > 0) {
        const auto past = static_cast<int32_t>(kPrompt + t - 1);
        batch.tokens = {tokens[static_cast<size_t>(t - 1)]};
        batch.sequences = {{0, 1, past}};
        batch.steps = {{Phase::decode, past, static_cast<int32_t>(t - 1)}};
      }
      const MatrixBuffer<float> all = logits_of(transformer, transformer.run(batch, linears, &cache));
      std::copy_n(all.row(all.rows() - 1), all.cols(), logits.row(t));
    }
    return logits;
  }
};

class Decoding : public ::testing::TestWithParam<Case> {};

TEST_P(Decoding, WithFastKernelsFollowsTheExactOnes) {
  const Quantized quantized(GetParam());
  const Transformer& transformer = quantized.embedded.transformer;
  const auto exact = transformer.quantized_linears(quantized.model(), quantized.policy.get());
  const auto fast = transformer.decoding_linears(quantized.model(), quantized.policy.get());
  const auto greedy =
      generate(transformer, *exact, quantized.embedded.windows(1, kPrompt), kTokens, {}).at(0);
  const MatrixBuffer<float> expected = quantized.logits_along(*exact, greedy);
  const MatrixBuffer<float> found = quantized.logits_along(*fast, greedy);
  EXPECT_EQ(testing::worst_row_error(found.view().rows_between(0, 1), expected.view().rows_between(0, 1)),
            0.0)
      << "prompts take the exact kernels";
  const double error = testing::worst_row_error(found.view(), expected.view());
  EXPECT_GT(error, 0) << "decoded tokens do not";
  // Of 256 graded channels, one that falls to the other side of its threshold shows.
  const bool graded = GetParam().graded;
  EXPECT_LT(error, graded ? 0.1 : 5e-3);
  int64_t agreed = 0;
  for (int64_t t = 0; t < kTokens; ++t)
    agreed += argmax(found.view().row_span(t)) == greedy[static_cast<size_t>(t)];
  EXPECT_GE(agreed, graded ? kTokens * 4 / 5 : kTokens);
  if (graded) return;
  EXPECT_EQ(generate(transformer, *fast, quantized.embedded.windows(1, kPrompt), kTokens, {}).at(0), greedy);
}

constexpr const char* kRtn = R"(quantizer = "rtn")";
constexpr const char* kLevel4 = R"(quantizer = "grinqh", policy = { name = "uniform", level = 4 })";
constexpr const char* kGraded = R"(quantizer = "grinqh", policy = { name = "grinqh" })";

INSTANTIATE_TEST_SUITE_P(Embedded, Decoding,
                         ::testing::Values(Case{"llama-tiny", kRtn}, Case{"llama-tiny", kLevel4},
                                           Case{"llama-tiny", kGraded, true}, Case{"qwen3-tiny", kRtn},
                                           Case{"qwen3-tiny", kGraded, true}));

}  // namespace
}  // namespace grinqh
