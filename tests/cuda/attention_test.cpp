// Attention and its decoding form against a float64 softmax on the host.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "cuda/attention.h"
#include "cuda/attention_kernels.h"
#include "cuda/gpu.h"
#include "cuda/typed_matrix.h"

namespace grinqh {
namespace {

using cuda::AttentionShape;
using cuda::Type;
using testing::random_of;
using testing::TypedMatrix;

struct Length {
  int64_t count, past;
};
struct Case {
  Type type;
  int64_t heads, kv_heads, head_dim;
  std::vector<Length> lengths;
};

// Queries of all sequences in one matrix; every sequence has its keys in a matrix of its own.
struct Problem {
  explicit Problem(const Case& c) : shape{c.heads, c.kv_heads, c.head_dim} {
    int64_t rows = 0;
    for (size_t s = 0; s < c.lengths.size(); ++s) {
      const auto [count, past] = c.lengths[s];
      keys.push_back(random_of(c.type, past + count, c.kv_heads * c.head_dim, 100 + s, 1.5));
      values.push_back(random_of(c.type, past + count, c.kv_heads * c.head_dim, 200 + s));
      device_keys.emplace_back(c.type, keys.back());
      device_values.emplace_back(c.type, values.back());
      spans.push_back({rows, count, past, device_keys.back().view().data, device_values.back().view().data});
      rows += count;
      longest = std::max(longest, count);
      longest_past = std::max(longest_past, past + 1);
    }
    q = random_of(c.type, rows, c.heads * c.head_dim, 300, 1.5);
    kv_stride = device_keys.front().view().stride;
  }

  // Of one head of one row of sequence s.
  std::vector<double> expected(size_t s, int64_t row, int64_t head) const {
    const cuda::SequenceSpan& span = spans[s];
    const int64_t dim = shape.head_dim, base = head / (shape.heads / shape.kv_heads) * dim;
    const int64_t seen = span.past + row + 1;
    std::vector<double> scores(static_cast<size_t>(seen)), result(static_cast<size_t>(dim));
    for (int64_t k = 0; k < seen; ++k) {
      double dot = 0;
      for (int64_t i = 0; i < dim; ++i)
        dot += static_cast<double>(q.row(span.first_row + row)[head * dim + i]) *
               static_cast<double>(keys[s].row(k)[base + i]);
      scores[static_cast<size_t>(k)] = dot / std::sqrt(static_cast<double>(dim));
    }
    const double top = *std::ranges::max_element(scores);
    double sum = 0;
    for (double& each : scores) sum += each = std::exp(each - top);
    for (int64_t k = 0; k < seen; ++k)
      for (int64_t i = 0; i < dim; ++i)
        result[static_cast<size_t>(i)] +=
            scores[static_cast<size_t>(k)] / sum * static_cast<double>(values[s].row(k)[base + i]);
    return result;
  }

  // Rows at the edges of tiles and some between.
  void compare(const MatrixBuffer<float>& found, double bound) const {
    for (size_t s = 0; s < spans.size(); ++s)
      for (int64_t row = 0; row < spans[s].count; ++row) {
        if (spans[s].count > 40 && row % 64 > 1 && row % 64 < 62 && row % 13 && row + 1 < spans[s].count)
          continue;
        for (int64_t head = 0; head < shape.heads; ++head) {
          const std::vector<double> exact = expected(s, row, head);
          for (int64_t i = 0; i < shape.head_dim; ++i)
            ASSERT_NEAR(found.row(spans[s].first_row + row)[head * shape.head_dim + i],
                        exact[static_cast<size_t>(i)], bound)
                << "sequence " << s << ", row " << row << ", head " << head << ", dimension " << i;
        }
      }
  }

  AttentionShape shape;
  std::vector<MatrixBuffer<float>> keys, values;
  std::vector<TypedMatrix> device_keys, device_values;
  std::vector<cuda::SequenceSpan> spans;
  MatrixBuffer<float> q;
  int64_t longest = 0, longest_past = 0, kv_stride = 0;
};

// Outputs are means of values of size 1. bf16 rounds the probabilities and the result.
double bound_of(Type type) { return type == Type::f32 ? 4e-6 : 1.5e-2; }

class CudaAttention : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    if (!testing::has_gpu()) GTEST_SKIP() << "no GPU here";
  }
};

TEST_P(CudaAttention, IsTheSoftmaxOverTheKeysUpToItsOwn) {
  const Problem problem(GetParam());
  const Type type = GetParam().type;
  const auto spans = testing::device_array(problem.spans);
  const TypedMatrix q(type, problem.q);
  MatrixBuffer<float> found[2];
  for (auto& each : found) {
    const TypedMatrix out(type, problem.q.rows(), problem.q.cols());
    cuda::attention(problem.shape, q.view(), spans.data(), spans.count(), problem.longest, problem.kv_stride,
                    out.view(), nullptr);
    each = out.values();
  }
  problem.compare(found[0], bound_of(type));
  for (int64_t i = 0; i < found[0].size(); ++i) ASSERT_EQ(found[0].data()[i], found[1].data()[i]);
}

// Where wgmma serves attention(), this is the one that other GPUs use.
TEST_P(CudaAttention, ByMmaSync) {
  if (GetParam().type != Type::bf16) return;
  const Problem problem(GetParam());
  const auto spans = testing::device_array(problem.spans);
  const TypedMatrix q(Type::bf16, problem.q), out(Type::bf16, problem.q.rows(), problem.q.cols());
  cuda::attention_bf16(
      {problem.shape, q.view(), spans.data(), spans.count(), problem.longest, problem.kv_stride, out.view()},
      nullptr);
  problem.compare(out.values(), bound_of(Type::bf16));
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, CudaAttention,
    ::testing::Values(Case{Type::f32, 4, 2, 64, {{70, 0}, {1, 0}, {33, 50}}},
                      Case{Type::f32, 2, 1, 128, {{200, 0}, {65, 130}}}, Case{Type::f32, 3, 3, 24, {{40, 7}}},
                      Case{Type::f32, 2, 2, 256, {{70, 3}}}, Case{Type::f32, 4, 1, 80, {{129, 64}}},
                      Case{Type::bf16, 4, 2, 64, {{70, 0}, {1, 0}, {33, 50}, {300, 0}}},
                      Case{Type::bf16, 4, 1, 128, {{300, 0}, {1, 0}, {129, 64}, {128, 128}, {5, 700}}},
                      Case{Type::bf16, 8, 8, 128, {{520, 0}}}, Case{Type::bf16, 3, 3, 24, {{40, 7}}},
                      Case{Type::bf16, 2, 2, 256, {{70, 3}, {64, 0}}},
                      Case{Type::bf16, 4, 1, 80, {{129, 64}}}));

class CudaDecodeAttention : public CudaAttention {};

TEST_P(CudaDecodeAttention, IsAttentionOfOneQuery) {
  const Problem problem(GetParam());
  const Type type = GetParam().type;
  const auto spans = testing::device_array(problem.spans);
  const TypedMatrix q(type, problem.q), out(type, problem.q.rows(), problem.q.cols());
  const cuda::Bytes scratch(
      cuda::decode_attention_scratch(problem.shape, spans.count(), problem.longest_past));
  cuda::decode_attention(problem.shape, q.view(), spans.data(), spans.count(), problem.longest_past,
                         problem.kv_stride, out.view(), scratch.data(), nullptr);
  problem.compare(out.values(), type == Type::f32 ? 4e-6 : 8e-3);
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudaDecodeAttention,
                         ::testing::Values(Case{Type::f32, 4, 2, 64, {{1, 0}, {1, 1000}, {1, 63}}},
                                           Case{Type::bf16, 32, 8, 128, {{1, 2047}}},
                                           Case{Type::bf16, 12, 2, 128, {{1, 5000}, {1, 17}}},
                                           Case{Type::f32, 3, 3, 24, {{1, 300}}},
                                           Case{Type::bf16, 2, 2, 256, {{1, 130}}},
                                           Case{Type::f32, 10, 2, 80, {{1, 511}}}));

}  // namespace
}  // namespace grinqh
