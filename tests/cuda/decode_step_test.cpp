// The launches of a decode step that are no products, against their formulas in float64.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "cuda/gpu.h"
#include "cuda/input_levels.h"
#include "cuda/sample_step.h"
#include "cuda/step_attention.h"
#include "cuda/typed_matrix.h"
#include "quant/precision.h"
#include "runtime/generate.h"

namespace grinqh {
namespace {

using cuda::Array;
using cuda::Type;
using testing::random_of;
using testing::TypedMatrix;

template <class T>
Array<T> uploaded(const std::vector<T>& values) {
  Array<T> array(std::ssize(values));
  cuda::to_device(values.data(), array.data(), std::ssize(values) * int64_t{sizeof(T)}, nullptr);
  return array;
}

template <class T>
std::vector<T> downloaded(const Array<T>& array) {
  std::vector<T> values(static_cast<size_t>(array.count()));
  cuda::to_host(array.data(), values.data(), array.count() * int64_t{sizeof(T)}, nullptr);
  return values;
}

struct Case {
  Type type;
  int64_t heads, kv_heads, head_dim;
  bool norms;
  std::vector<int32_t> positions;
};

// Keys and values lie as in a KvCache of one block: those of a sequence one after the other.
struct Attention {
  explicit Attention(const Case& c)
      : c(c),
        width(c.kv_heads * c.head_dim),
        capacity(*std::ranges::max_element(c.positions) + 3),
        sequences(std::ssize(c.positions)),
        qkv(random_of(Type::f32, sequences, (c.heads + 2 * c.kv_heads) * c.head_dim, 1)),
        cache(random_of(c.type, 2 * sequences * capacity, width, 2)),
        q_norm(testing::random_vector(c.head_dim, 3)),
        k_norm(testing::random_vector(c.head_dim, 4)) {
    for (int64_t i = 0; i < c.head_dim / 2; ++i)
      frequencies.push_back(
          std::pow(10000.0f, -2.0f * static_cast<float>(i) / static_cast<float>(c.head_dim)));
  }

  double rounded(double x) const {
    return c.type == Type::bf16 ? static_cast<double>(rounded_to(DType::bf16, static_cast<float>(x))) : x;
  }

  // A head of q or k as it enters the scores.
  std::vector<double> turned(int64_t s, int64_t column, const std::vector<float>& norm) const {
    const int64_t half = c.head_dim / 2;
    std::vector<double> x(static_cast<size_t>(c.head_dim)), result(x.size());
    double squares = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      x[i] = static_cast<double>(qkv.row(s)[column + static_cast<int64_t>(i)]);
      squares += x[i] * x[i];
    }
    const double scale = 1 / std::sqrt(squares / static_cast<double>(c.head_dim) + 1e-5);
    if (c.norms)
      for (size_t i = 0; i < x.size(); ++i) x[i] *= scale * static_cast<double>(norm[i]);
    for (int64_t i = 0; i < half; ++i) {
      // The angle is a product in float32.
      const double angle = static_cast<double>(static_cast<float>(c.positions[static_cast<size_t>(s)]) *
                                               frequencies[static_cast<size_t>(i)]);
      const auto a = static_cast<size_t>(i), b = static_cast<size_t>(i + half);
      result[a] = x[a] * std::cos(angle) - x[b] * std::sin(angle);
      result[b] = x[b] * std::cos(angle) + x[a] * std::sin(angle);
    }
    return result;
  }

  MatrixBuffer<double> expected(MatrixBuffer<float>& appended) const {
    MatrixBuffer<double> out(sequences, c.heads * c.head_dim);
    for (int64_t s = 0; s < sequences; ++s) {
      const int64_t past = c.positions[static_cast<size_t>(s)], keys = 2 * s * capacity,
                    values = keys + capacity;
      for (int64_t g = 0; g < c.kv_heads; ++g) {
        const std::vector<double> key = turned(s, (c.heads + g) * c.head_dim, k_norm);
        for (int64_t d = 0; d < c.head_dim; ++d) {
          appended.row(keys + past)[g * c.head_dim + d] =
              static_cast<float>(rounded(key[static_cast<size_t>(d)]));
          appended.row(values + past)[g * c.head_dim + d] = static_cast<float>(
              rounded(static_cast<double>(qkv.row(s)[(c.heads + c.kv_heads + g) * c.head_dim + d])));
        }
      }
      for (int64_t h = 0; h < c.heads; ++h) {
        const int64_t base = h / (c.heads / c.kv_heads) * c.head_dim;
        const std::vector<double> query = turned(s, h * c.head_dim, q_norm);
        std::vector<double> weights;
        for (int64_t k = 0; k <= past; ++k) {
          double dot = 0;
          for (int64_t d = 0; d < c.head_dim; ++d)
            dot += query[static_cast<size_t>(d)] * static_cast<double>(appended.row(keys + k)[base + d]);
          weights.push_back(dot / std::sqrt(static_cast<double>(c.head_dim)));
        }
        const double top = *std::ranges::max_element(weights);
        double sum = 0;
        for (double& weight : weights) sum += weight = std::exp(weight - top);
        for (int64_t d = 0; d < c.head_dim; ++d) {
          double mix = 0;
          for (int64_t k = 0; k <= past; ++k)
            mix += weights[static_cast<size_t>(k)] / sum *
                   static_cast<double>(appended.row(values + k)[base + d]);
          out.row(s)[h * c.head_dim + d] = mix;
        }
      }
    }
    return out;
  }

  Case c;
  int64_t width, capacity, sequences;
  MatrixBuffer<float> qkv, cache;
  std::vector<float> q_norm, k_norm, frequencies;
};

class StepAttention : public ::testing::TestWithParam<Case> {};

TEST_P(StepAttention, MixesWhatItsCacheHoldsAndAppends) {
  if (!testing::has_gpu()) GTEST_SKIP() << "no GPU";
  const Attention attention(GetParam());
  const Case& c = attention.c;
  MatrixBuffer<float> appended(attention.cache.rows(), attention.cache.cols());
  std::copy_n(attention.cache.data(), appended.size(), appended.data());
  const MatrixBuffer<double> expected = attention.expected(appended);
  const TypedMatrix qkv(Type::f32, attention.qkv);
  const Array<float> q_norm = uploaded(attention.q_norm), k_norm = uploaded(attention.k_norm),
                     frequencies = uploaded(attention.frequencies);
  const Array<int32_t> positions = uploaded(c.positions);
  for (const int parts : {1, 2, 4, 8}) {
    const TypedMatrix cache(c.type, attention.cache),
        out(Type::f32, attention.sequences, c.heads * c.head_dim);
    cuda::StepAttention task;
    task.shape = {c.heads, c.kv_heads, c.head_dim};
    task.qkv = qkv.view();
    task.q_norm = c.norms ? q_norm.data() : nullptr;
    task.k_norm = c.norms ? k_norm.data() : nullptr;
    task.epsilon = 1e-5f;
    task.frequencies = frequencies.data();
    task.positions = positions.data();
    task.row_stride = cache.view().stride;
    task.keys = cache.view().data;
    task.values = cache.view().rows_between(attention.capacity, attention.capacity + 1).data;
    task.sequence_stride = 2 * attention.capacity * task.row_stride;
    task.cache_type = c.type;
    task.out = out.view();
    cuda::step_attention(task, parts, nullptr);
    const MatrixBuffer<float> found = out.values();
    EXPECT_LE(testing::relative_error(found, expected), 1e-5 * (c.type == Type::bf16 ? 100 : 1)) << parts;
    EXPECT_LE(testing::relative_error(cache.values(), appended), c.type == Type::bf16 ? 1e-4 : 1e-6);
    cuda::step_attention(task, parts, nullptr);
    const MatrixBuffer<float> again = out.values();
    EXPECT_TRUE(std::equal(again.data(), again.data() + again.size(), found.data())) << parts;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, StepAttention,
    ::testing::Values(Case{Type::bf16, 32, 8, 128, false, {1023}},
                      Case{Type::f32, 32, 8, 128, true, {0, 5, 300}},
                      Case{Type::bf16, 8, 8, 64, true, {77, 1}}, Case{Type::f32, 4, 2, 32, false, {0}},
                      Case{Type::f32, 6, 1, 24, true, {130, 129}}, Case{Type::bf16, 16, 2, 256, true, {700}},
                      Case{Type::f32, 4, 4, 256, false, {65, 2}}, Case{Type::bf16, 12, 4, 96, false, {2050}},
                      Case{Type::bf16, 32, 8, 128, true, {1500, 176, 175}},
                      Case{Type::bf16, 20, 2, 64, false, {2900, 0, 1407}}),
    [](const auto& each) { return "case_" + std::to_string(each.index); });

class SampleStep : public ::testing::TestWithParam<int64_t> {};

TEST_P(SampleStep, DrawsAsTheHostAndGoesOn) {
  if (!testing::has_gpu()) GTEST_SKIP() << "no GPU";
  constexpr int64_t kSequences = 3, kHidden = 40, kSteps = 5;
  constexpr int32_t kRing = 2;
  const int64_t vocab = GetParam();
  MatrixBuffer<float> logits = random_of(Type::f32, kSequences, vocab, 1, 2.0);
  logits.row(1)[vocab / 2] = logits.row(1)[vocab - 1] = 50;  // the first of equals
  const MatrixBuffer<float> embedding = random_of(Type::bf16, vocab, kHidden, 2);
  const TypedMatrix on_device(Type::f32, logits), table(Type::bf16, embedding),
      x(Type::f32, kSequences, kHidden);
  const Array<uint8_t> scratch(cuda::sample_scratch(kSequences));
  cuda::fill_zero(scratch.data(), scratch.count(), nullptr);
  for (const double temperature : {0.0, 0.7}) {
    std::vector<Rng> random;
    std::vector<uint64_t> chance;
    for (uint64_t s = 0; s < kSequences; ++s) chance.push_back(random.emplace_back(7, s).state());
    const Array<int32_t> tokens = uploaded(std::vector<int32_t>{1, 1, 1}),
                         positions = uploaded(std::vector<int32_t>{10, 20, 30}),
                         steps = uploaded(std::vector<int32_t>{0, 0, 0});
    const Array<uint64_t> states = uploaded(chance);
    const Array<int32_t> history = uploaded(std::vector<int32_t>(kRing * kSequences, -1));
    cuda::SampleStep task;
    task.logits = on_device.view();
    task.temperature = static_cast<float>(temperature);
    task.state = {tokens.data(), positions.data(), steps.data(), states.data()};
    task.embedding = table.view();
    task.x = x.view();
    task.history = history.data();
    task.ring = kRing;
    task.scratch = scratch.data();
    std::vector<int32_t> expected(kSequences);
    for (int64_t step = 0; step < kSteps; ++step) {
      cuda::sample_step(task, nullptr);
      for (size_t s = 0; s < expected.size(); ++s) {
        const std::span<const float> row = logits.view().row_span(static_cast<int64_t>(s));
        expected[s] = temperature > 0
                          ? sample(row, static_cast<double>(task.temperature), random[s].uniform())
                          : argmax(row);
      }
      EXPECT_EQ(downloaded(tokens), expected) << step;
    }
    EXPECT_EQ(downloaded(positions), (std::vector<int32_t>{15, 25, 35}));
    EXPECT_EQ(downloaded(steps), (std::vector<int32_t>{5, 5, 5}));
    const std::vector<int32_t> seen = downloaded(history);
    EXPECT_TRUE(std::equal(expected.begin(), expected.end(), seen.begin()));  // step 4 of a ring of two
    const MatrixBuffer<float> next = x.values();
    for (size_t s = 0; s < expected.size(); ++s)
      for (int64_t i = 0; i < kHidden; ++i)
        EXPECT_EQ(next.row(static_cast<int64_t>(s))[i], embedding.row(expected[s])[i]);
  }
}

INSTANTIATE_TEST_SUITE_P(Vocabularies, SampleStep, ::testing::Values(7, 512, 1000, 128256));

TEST(InputLevels, AreCountedAsProductsMakeTheirInputs) {
  if (!testing::has_gpu()) GTEST_SKIP() << "no GPU";
  constexpr int64_t kTokens = 2, kIn = 328;
  const MatrixBuffer<float> values = random_of(Type::bf16, kTokens, 2 * kIn, 5, 1.5);
  const std::vector<float> norm = testing::random_vector(2 * kIn, 6);
  const TypedMatrix x(Type::bf16, values);
  const Array<float> weights = uploaded(norm);
  for (const auto form :
       {cuda::GemvInput::Form::plain, cuda::GemvInput::Form::rms_norm, cuda::GemvInput::Form::swiglu}) {
    const int64_t in = form == cuda::GemvInput::Form::swiglu ? kIn : 2 * kIn;
    std::vector<float> thresholds;
    for (const float low : {0.2f, 0.9f})
      for (int64_t i = 0; i < in; ++i) thresholds.push_back(low + 0.001f * static_cast<float>(i % 7));
    const Array<float> on_device = uploaded(thresholds);
    cuda::GradingRule rule;
    rule.thresholds = on_device.data();
    std::ranges::copy(std::vector<uint8_t>{2, 4, 8}, rule.levels);
    rule.count = 3;
    const Array<int32_t> counts(kTokens * (kMaxLevel + 1));
    cuda::count_input_levels({x.view(), form, weights.data(), 1e-5f}, rule, counts.data(), nullptr);
    const std::vector<int32_t> found = downloaded(counts);
    for (int64_t t = 0; t < kTokens; ++t) {
      double squares = 0;
      for (int64_t i = 0; i < 2 * kIn; ++i) squares += std::pow(static_cast<double>(values.row(t)[i]), 2);
      const double factor = 1 / std::sqrt(squares / (2 * kIn) + 1e-5);
      std::vector<int32_t> expected(kMaxLevel + 1);
      for (int64_t i = 0; i < in; ++i) {
        auto v = static_cast<double>(values.row(t)[i]);
        if (form == cuda::GemvInput::Form::rms_norm)
          v *= factor * static_cast<double>(norm[static_cast<size_t>(i)]);
        if (form == cuda::GemvInput::Form::swiglu)
          v = v / (1 + std::exp(-v)) * static_cast<double>(values.row(t)[kIn + i]);
        const auto passes = [&](int64_t step) {
          return std::abs(v) > static_cast<double>(thresholds[static_cast<size_t>(step * in + i)]);
        };
        ++expected[passes(1) ? 8 : passes(0) ? 4 : 2];
      }
      EXPECT_TRUE(std::equal(expected.begin(), expected.end(), found.begin() + t * (kMaxLevel + 1)));
    }
  }
}

}  // namespace
}  // namespace grinqh
