// Decoding by graphs against decoding layer by layer on the same device: tokens, predictions, bits read.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "device/on_gpu.h"
#include "quantized_embedded.h"
#include "runtime/generate.h"

namespace grinqh {
namespace {

using testing::embedded_model;
using testing::on_gpu;
using testing::relative_difference;

constexpr int64_t kPrompt = 24, kSteps = 24;

// A method on an embedded model, as the CPU prepares it once; none: the model as it is.
struct Subject {
  const testing::EmbeddedModel* embedded = nullptr;
  std::unique_ptr<testing::QuantizedEmbedded> quantized;

  const QuantizedModel& model() const {
    static const QuantizedModel nothing;
    return quantized ? quantized->model() : nothing;
  }
  const PrecisionPolicy* policy() const { return quantized ? quantized->policy.get() : nullptr; }
};

const Subject& subject(const std::string& model, const std::string& method) {
  static std::map<std::string, Subject> made;
  const auto [kept, added] = made.try_emplace(model + method);
  if (!added) return kept->second;
  kept->second.embedded = &embedded_model(model);
  if (!method.empty())
    kept->second.quantized = std::make_unique<testing::QuantizedEmbedded>(model, method, 2, 64);
  return kept->second;
}

// One way of decoding, begun on the prompts.
struct Decoding {
  Decoding(const Transformer& transformer, const Subject& subject, int64_t sequences, bool engine,
           const Sampling& sampling = {})
      : executor(transformer.quantized_linears(subject.model(), subject.policy())) {
    const DecodePlan plan{sequences, kPrompt + kSteps + 8, nullptr, true};
    decoder = engine ? transformer.make_decoder(*executor, plan)
                     : make_stepwise_decoder(transformer, *executor, plan);
    // Prompts of different lengths.
    Batch prompts;
    std::vector<int32_t> tokens, positions;
    for (int64_t s = 0; s < sequences; ++s) {
      const int64_t length = kPrompt - 5 * s;
      prompts.sequences.push_back({prompts.rows(), length, 0});
      const auto first = subject.embedded->tokens.begin() + s * kPrompt;
      prompts.tokens.insert(prompts.tokens.end(), first, first + length);
      for (int64_t t = 0; t < length; ++t)
        prompts.steps.push_back({Phase::prefill, static_cast<int32_t>(t), 0});
      tokens.push_back(*(first + length));
      positions.push_back(static_cast<int32_t>(length));
    }
    transformer.run(prompts, *executor, &decoder->cache());
    decoder->begin(tokens, positions, sampling);
  }

  std::unique_ptr<QuantizedExecutor> executor;
  std::unique_ptr<Decoder> decoder;
};

struct Case {
  const char *model, *method;
};

class EveryDecoder : public ::testing::TestWithParam<std::tuple<Case, Arithmetic, int64_t>> {};

TEST_P(EveryDecoder, DecodesAsLayerByLayer) {
  GRINQH_NEED_GPU();
  const auto& [which, arithmetic, sequences] = GetParam();
  const Subject& method = subject(which.model, which.method);
  const auto gpu = on_gpu(method.embedded->model, arithmetic);
  Decoding fast(*gpu, method, sequences, true), slow(*gpu, method, sequences, false);
  if (fast.decoder->name() == slow.decoder->name()) GTEST_SKIP() << "no decode engine on this device";
  const bool single = arithmetic == Arithmetic::float32;
  // A last bit of an activation may move a channel to another level, and what is predicted from there on with
  // it. In float32 that is rare: until a sequence has read other bits, all is as layer by layer.
  const bool graded = method.policy() && method.policy()->looks_at_inputs();
  const double allowed = graded ? 1e-1 : 3e-2;
  std::vector<bool> parted(static_cast<size_t>(sequences), !single);
  int64_t alike = 0;
  MatrixBuffer<float> found(sequences, gpu->vocab()), expected(sequences, gpu->vocab());
  for (int64_t step = 0; step < kSteps; ++step) {
    fast.decoder->advance();
    slow.decoder->advance();
    const std::vector<int32_t> tokens = fast.decoder->read(), others = slow.decoder->read();
    fast.decoder->logits(found);
    slow.decoder->logits(expected);
    const RowTraffic &read = fast.decoder->traffic(), &asked = slow.decoder->traffic();
    for (size_t s = 0; s < tokens.size(); ++s) {
      SCOPED_TRACE(fmt::format("step {}, sequence {}", step, s));
      const auto row = static_cast<int64_t>(s);
      const std::span<const float> logits = expected.view().row_span(row);
      const double difference =
          relative_difference(testing::as_row(found.view().row_span(row)), testing::as_row(logits));
      if (graded && read.codes[s] != asked.codes[s]) parted[s] = true;
      if (!parted[s]) {
        EXPECT_LE(difference, 1e-4);
        EXPECT_EQ(read.codes[s], asked.codes[s]);
        EXPECT_EQ(read.total[s], asked.total[s]);
        ASSERT_EQ(tokens[s], others[s]);
        ++alike;
        continue;
      }
      EXPECT_LE(difference, allowed);
      const auto total = static_cast<double>(asked.total[s]), codes = static_cast<double>(asked.codes[s]);
      EXPECT_NEAR(static_cast<double>(read.total[s]), total, total * 1e-2);
      EXPECT_NEAR(static_cast<double>(read.codes[s]), codes, codes * 1e-2);
      // Only where two tokens are all but equally likely.
      EXPECT_LE(logits[static_cast<size_t>(others[s])] - logits[static_cast<size_t>(tokens[s])],
                graded ? 0.5f : 0.1f);
    }
    if (tokens != others) break;
  }
  // Of some thousand channels a step: what grades them otherwise parts at once.
  if (single) EXPECT_GE(alike, sequences * kSteps / 8);
}

// Tokens go from one budget to another.
constexpr const char* kLadder =
    "quantizer = \"grinqh\", policy = { name = \"pmpd\", base = \"grinqh\", levels = [4, 3], steps = [8] }";
constexpr const char* kGraded =
    "quantizer = \"grinqh\", policy = { name = \"grinqh\", bits = 3.0, budget = \"uniform\" }";

INSTANTIATE_TEST_SUITE_P(
    Methods, EveryDecoder,
    ::testing::Combine(
        ::testing::Values(Case{"llama-tiny", ""}, Case{"qwen3-tiny", ""},
                          Case{"llama-tiny", "quantizer = \"rtn\", bits = 4"},
                          Case{"qwen3-tiny", "quantizer = \"rtn\", bits = 3"}, Case{"llama-tiny", kGraded},
                          Case{"qwen3-tiny", kGraded},
                          Case{"qwen3-tiny",
                               "quantizer = \"grinqh\", policy = { name = \"grinqh\", bits = 2.5, budget = "
                               "\"uniform\", selection = \"exact\", full_tokens = 30, offset = true }"},
                          Case{
                              "llama-tiny",
                              "quantizer = \"grinqh\", levels = [0, 2, 3, 4, 8], policy = { name = \"pmpd\", "
                              "levels = [4, 3], steps = [8] }"},
                          Case{"llama-tiny", kLadder}),
        ::testing::Values(Arithmetic::float32, Arithmetic::native),
        ::testing::Values(int64_t{1}, int64_t{3})),
    [](const auto& each) { return "case_" + std::to_string(each.index); });

TEST(DecodeEngine, DrawsFromTheSameStreamsAsTheHost) {
  GRINQH_NEED_GPU();
  const Subject& method = subject("llama-tiny", "");
  const auto gpu = on_gpu(method.embedded->model, Arithmetic::float32);
  const Sampling sampling{0.8, 11, 5};
  Decoding fast(*gpu, method, 2, true, sampling), slow(*gpu, method, 2, false, sampling);
  for (int64_t step = 0; step < kSteps; ++step) {
    fast.decoder->advance();
    slow.decoder->advance();
    EXPECT_EQ(fast.decoder->read(), slow.decoder->read()) << step;
  }
}

TEST(DecodeEngine, StepsUnderWayComeInTheirOrder) {
  GRINQH_NEED_GPU();
  const Subject& method = subject("qwen3-tiny", kGraded);
  const auto gpu = on_gpu(method.embedded->model, Arithmetic::native);
  Decoding one(*gpu, method, 2, true), ahead(*gpu, method, 2, true);
  std::vector<std::vector<int32_t>> expected, found;
  for (int64_t step = 0; step < kSteps; ++step) {
    one.decoder->advance();
    expected.push_back(one.decoder->read());
  }
  for (int64_t step = 0; step < kSteps; ++step) {
    ahead.decoder->advance();
    if (step + 1 < ahead.decoder->most_ahead()) continue;
    found.push_back(ahead.decoder->read());
  }
  while (std::ssize(found) < kSteps) found.push_back(ahead.decoder->read());
  EXPECT_EQ(found, expected);
}

TEST(DecodeEngine, SaysWhatAStepReadsAndWhereItsTimeGoes) {
  GRINQH_NEED_GPU();
  const Subject& method = subject("llama-tiny", "quantizer = \"rtn\", bits = 4");
  const auto gpu = on_gpu(method.embedded->model, Arithmetic::native);
  Decoding fast(*gpu, method, 1, true), slow(*gpu, method, 1, false);
  for (Decoding* each : {&fast, &slow}) {
    each->decoder->advance();
    each->decoder->read();
  }
  const DecodeBytes bytes = fast.decoder->bytes(), expected = slow.decoder->bytes();
  EXPECT_EQ(bytes.weights, expected.weights);
  EXPECT_EQ(bytes.cache, expected.cache);
  EXPECT_EQ(bytes.head, expected.head);
  const DecodeSplit split = fast.decoder->split();
  EXPECT_GT(split.products, 0);
  EXPECT_GT(split.head, 0);
  EXPECT_GT(slow.decoder->split().products, 0);
}

}  // namespace
}  // namespace grinqh
