// The batched decode phase against feeding the tokens one by one (DESIGN.md section 5), under graded
// precision on real models: the batch is computed level by level, a single token channel by channel.
#include "numbers.h"
#include "quantized_embedded.h"
#include "runtime/language_model.h"

namespace grinqh {
namespace {

using testing::embedded_model;
using testing::logits_of;

struct Case {
  const char* model;
  std::vector<int> levels;
  double bits;
};

std::string name_of(const Case& each) {
  return fmt::format("{}_{}levels_{}bits", std::string(each.model).substr(0, 5), each.levels.size(),
                     each.bits);
}
void PrintTo(const Case& each, std::ostream* out) { *out << name_of(each); }

struct Graded : testing::QuantizedEmbedded {
  explicit Graded(const Case& each)
      : QuantizedEmbedded(each.model, fmt::format("quantizer = \"grinqh\", levels = [{}], policy = {{ name = "
                                                  "\"grinqh\", bits = {} }}",
                                                  fmt::join(each.levels, ", "), each.bits)) {}
};

struct Decoded {
  MatrixBuffer<float> logits;
  RowTraffic traffic;
};

Decoded in_one_batch(const Graded& graded, int64_t tokens) {
  QuantizedLinears linears(graded.model(), graded.policy.get());
  const Transformer& transformer = graded.embedded.transformer;
  const MatrixBuffer<float> features =
      transformer.run(Batch::of_windows(graded.embedded.windows(1, tokens), 0), linears);
  return {logits_of(transformer, features), linears.traffic()};
}

Decoded one_by_one(const Graded& graded, int64_t tokens) {
  const Transformer& transformer = graded.embedded.transformer;
  QuantizedLinears linears(graded.model(), graded.policy.get());
  KvCache cache = transformer.make_cache(1, tokens);
  Decoded decoded{MatrixBuffer<float>(tokens, transformer.vocab()), {}};
  for (int64_t t = 0; t < tokens; ++t) {
    Batch batch;
    batch.tokens = {graded.embedded.tokens[static_cast<size_t>(t)]};
    batch.sequences = {{0, 1, t}};
    batch.steps = {{Phase::decode, static_cast<int32_t>(t), static_cast<int32_t>(t)}};
    const MatrixBuffer<float> logits = logits_of(transformer, transformer.run(batch, linears, &cache));
    std::copy_n(logits.data(), logits.size(), decoded.logits.row(t));
    decoded.traffic.codes.push_back(linears.traffic().codes[0]);
    decoded.traffic.total.push_back(linears.traffic().total[0]);
  }
  return decoded;
}

class GradedDecode : public ::testing::TestWithParam<Case> {};

TEST_P(GradedDecode, InOneBatchIsTokenByToken) {
  constexpr int64_t kTokens = 56;
  const Graded graded(GetParam());
  const Decoded batch = in_one_batch(graded, kTokens), single = one_by_one(graded, kTokens);
  EXPECT_EQ(testing::worst_row_error(batch.logits.view(), single.logits.view()), 0.0);
  EXPECT_EQ(batch.traffic.codes, single.traffic.codes);
  EXPECT_EQ(batch.traffic.total, single.traffic.total);
  // That it is graded at all: near the budget, and different from token to token.
  double mean = 0;
  for (const int64_t codes : batch.traffic.codes)
    mean += static_cast<double>(codes) / static_cast<double>(graded.model().weights() * kTokens);
  EXPECT_NEAR(mean, GetParam().bits, 0.3);
  EXPECT_NE(batch.traffic.codes[10], batch.traffic.codes[20]);
}

INSTANTIATE_TEST_SUITE_P(
    Embedded, GradedDecode,
    ::testing::Values(Case{"llama-tiny", {0, 2, 4, 8}, 2}, Case{"llama-tiny", {0, 2, 4, 8}, 3},
                      Case{"llama-tiny", {0, 1, 2, 3, 4, 5, 6, 8}, 2},
                      Case{"llama-tiny", {0, 1, 2, 3, 4, 5, 6, 8}, 3}, Case{"qwen3-tiny", {0, 2, 4, 8}, 2},
                      Case{"qwen3-tiny", {0, 2, 4, 8}, 3}, Case{"qwen3-tiny", {0, 1, 2, 3, 4, 5, 6, 8}, 2},
                      Case{"qwen3-tiny", {0, 1, 2, 3, 4, 5, 6, 8}, 3}),
    [](const auto& each) { return name_of(each.param); });

TEST(GradedDecodeThreads, DoNotChangeAnything) {
  const Graded graded({"llama-tiny", {0, 2, 4, 8}, 3});
  std::vector<Decoded> batches, singles;
  for (const int count : {1, 2, 3}) {
    const testing::Threads threads(count);
    batches.push_back(in_one_batch(graded, 70));
    singles.push_back(one_by_one(graded, 6));
  }
  for (size_t i = 1; i < batches.size(); ++i) {
    EXPECT_EQ(testing::relative_error(batches[i].logits, batches[0].logits), 0.0);
    EXPECT_EQ(batches[i].traffic.codes, batches[0].traffic.codes);
    EXPECT_EQ(testing::relative_error(singles[i].logits, singles[0].logits), 0.0);
  }
}

}  // namespace
}  // namespace grinqh
