#include "cuda/backward.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "core/vector_math.h"
#include "cuda/gpu.h"
#include "cuda/typed_matrix.h"
#include "runtime/attention_backward.h"
#include "runtime/ops.h"

namespace grinqh::cuda {
namespace {

using testing::device_array;
using testing::random_of;
using testing::relative_error;
using testing::tolerance;
using testing::TypedMatrix;

class Backward : public ::testing::TestWithParam<Type> {
 protected:
  void SetUp() override {
    if (!testing::has_gpu()) GTEST_SKIP() << "no GPU here";
  }
};
INSTANTIATE_TEST_SUITE_P(Types, Backward, ::testing::Values(Type::f32, Type::bf16),
                         [](const auto& suite) { return suite.param == Type::f32 ? "f32" : "bf16"; });

TEST_P(Backward, RmsNorm) {
  constexpr double kEps = 1e-3;
  for (const int64_t cols : {1, 8, 100, 2049, 4096, 9001})
    for (const bool weighted : {true, false}) {
      const MatrixBuffer<float> x = random_of(GetParam(), 13, cols, 1),
                                d = random_of(GetParam(), 13, cols, 2);
      const std::vector<float> weight =
          weighted ? testing::random_vector(cols, 3) : std::vector<float>(static_cast<size_t>(cols), 1.0f);
      const MatrixBuffer<float> expected = d.copy();
      grinqh::rms_norm_backward(x, weight, kEps, expected);
      const TypedMatrix gradient(GetParam(), d);
      const auto device_weight = device_array(weight);
      rms_norm_backward(TypedMatrix(GetParam(), x).view(), weighted ? device_weight.data() : nullptr,
                        static_cast<float>(kEps), gradient.view(), nullptr);
      // A single column cancels but for eps: what is left has the rounding of what was taken away.
      const double bound = cols == 1 ? 1e-2 : tolerance(GetParam());
      EXPECT_LT(relative_error(gradient.values(), expected), bound) << cols;
    }
}

TEST_P(Backward, RmsNormOfHeads) {
  for (const int64_t head_dim : {8, 64, 80, 128, 264}) {
    const MatrixBuffer<float> x = random_of(GetParam(), 29, 5 * head_dim, 4),
                              d = random_of(GetParam(), 29, 5 * head_dim, 5);
    const std::vector<float> weight = testing::random_vector(head_dim, 6);
    const MatrixBuffer<float> expected = d.copy();
    grinqh::rms_norm_heads_backward(x, weight, 1e-6, expected);
    const TypedMatrix gradient(GetParam(), d);
    rms_norm_heads_backward(TypedMatrix(GetParam(), x).view(), device_array(weight).data(), head_dim, 1e-6f,
                            gradient.view(), nullptr);
    EXPECT_LT(relative_error(gradient.values(), expected), tolerance(GetParam())) << head_dim;
  }
}

// The stream of activations may be float32 where gradients are bf16.
TEST(BackwardOfTwoTypes, RmsNorm) {
  if (!testing::has_gpu()) GTEST_SKIP() << "no GPU here";
  const MatrixBuffer<float> x = random_of(Type::f32, 7, 300, 1), d = random_of(Type::bf16, 7, 300, 2);
  const std::vector<float> weight = testing::random_vector(300, 3);
  const MatrixBuffer<float> expected = d.copy();
  grinqh::rms_norm_backward(x, weight, 1e-5, expected);
  const TypedMatrix gradient(Type::bf16, d);
  rms_norm_backward(TypedMatrix(Type::f32, x).view(), device_array(weight).data(), 1e-5f, gradient.view(),
                    nullptr);
  EXPECT_LT(relative_error(gradient.values(), expected), tolerance(Type::bf16));
}

TEST_P(Backward, SiluMultiply) {
  for (const int64_t cols : {1, 9, 2048, 2055}) {
    // Wide gates reach both ends of the sigmoid.
    const MatrixBuffer<float> gate = random_of(GetParam(), 17, cols, 1, 30.0),
                              up = random_of(GetParam(), 17, cols, 2), d = random_of(GetParam(), 17, cols, 3);
    const MatrixBuffer<float> d_gate = gate.copy(), d_up = up.copy();
    for (int64_t t = 0; t < gate.rows(); ++t)
      grinqh::silu_multiply_backward(d_gate.view().row_span(t), d_up.view().row_span(t),
                                     Matrix<const float>(d).row_span(t));
    const TypedMatrix found_gate(GetParam(), gate), found_up(GetParam(), up);
    silu_multiply_backward(found_gate.view(), found_up.view(), TypedMatrix(GetParam(), d).view(), nullptr);
    EXPECT_LT(relative_error(found_gate.values(), d_gate), tolerance(GetParam())) << cols;
    EXPECT_LT(relative_error(found_up.values(), d_up), tolerance(GetParam())) << cols;
  }
}

struct Gradients {
  MatrixBuffer<float> q, k, v;
};

// Sequences with rows between them that belong to none; sharp attention, so that the maximum matters.
struct Workload {
  AttentionShape shape;
  Type type;
  std::vector<SequenceSpan> spans;
  int64_t longest = 0;
  MatrixBuffer<float> q, k, v, out, d_out;

  Workload(const AttentionShape& shape, Type type, const std::vector<int64_t>& lengths)
      : shape(shape), type(type) {
    int64_t rows = 3;
    for (const int64_t length : lengths) {
      spans.push_back({rows, length, 0, nullptr, nullptr});
      rows += length + 1;
      longest = std::max(longest, length);
    }
    const int64_t wide = shape.heads * shape.head_dim, narrow = shape.kv_heads * shape.head_dim;
    q = random_of(type, rows, wide, 1, 2.0);
    k = random_of(type, rows, narrow, 2);
    v = random_of(type, rows, narrow, 3);
    d_out = random_of(type, rows, wide, 4);
    out = MatrixBuffer<float>::zeroed(rows, wide);
    for (const SequenceSpan& span : spans) {
      const auto part = [&](const MatrixBuffer<float>& x) {
        return x.view().rows_between(span.first_row, span.first_row + span.count);
      };
      for (int64_t task = 0; task < attention_tasks(host_shape(), span.count); ++task)
        attention_task(host_shape(), task, part(q), part(k), part(v), part(out));
    }
    if (type == Type::bf16)
      for (int64_t i = 0; i < out.size(); ++i) out.data()[i] = rounded_to(DType::bf16, out.data()[i]);
  }

  grinqh::AttentionShape host_shape() const { return {shape.heads, shape.kv_heads, shape.head_dim}; }

  // NaNs in the rows of no sequence, like the device's poison.
  Gradients expected() const {
    Gradients d{MatrixBuffer<float>(q.rows(), q.cols()), MatrixBuffer<float>(k.rows(), k.cols()),
                MatrixBuffer<float>(k.rows(), k.cols())};
    for (const auto* matrix : {&d.q, &d.k, &d.v}) std::fill_n(matrix->data(), matrix->size(), NAN);
    for (const SequenceSpan& span : spans) {
      const auto part = [&](const MatrixBuffer<float>& x) {
        return x.view().rows_between(span.first_row, span.first_row + span.count);
      };
      const AttentionRecord record{part(q), part(out), part(d_out), part(k), part(v)};
      for (int64_t task = 0; task < shape.kv_heads; ++task)
        attention_backward_task(host_shape(), task, record, part(d.q), part(d.k), part(d.v));
    }
    return d;
  }

  Gradients found() const {
    const TypedMatrix on_q(type, q), on_k(type, k), on_v(type, v), on_out(type, out), on_d_out(type, d_out);
    const TypedMatrix d_q(type, q.rows(), q.cols()), d_k(type, k.rows(), k.cols()),
        d_v(type, k.rows(), k.cols());
    const Array<float> scratch = device_array(
        std::vector<float>(static_cast<size_t>(attention_backward_scratch(shape, q.rows())), NAN));
    attention_backward(shape,
                       {on_q.view(), on_k.view(), on_v.view(), on_out.view(), on_d_out.view(), d_q.view(),
                        d_k.view(), d_v.view()},
                       device_array(spans).data(), static_cast<int64_t>(spans.size()), longest,
                       scratch.data(), nullptr);
    return {d_q.values(), d_k.values(), d_v.values()};
  }
};

// NaN where and only where NaN is expected; these count no further.
double error_of_sequences(const MatrixBuffer<float>& found, const MatrixBuffer<float>& expected) {
  std::vector<float> a, b;
  for (int64_t i = 0; i < found.size(); ++i) {
    if (std::isnan(found.data()[i]) != std::isnan(expected.data()[i])) return INFINITY;
    if (std::isnan(found.data()[i])) continue;
    a.push_back(found.data()[i]);
    b.push_back(expected.data()[i]);
  }
  return relative_error(std::span<const float>(a), std::span<const float>(b));
}

constexpr AttentionShape kShapes[] = {{4, 2, 64}, {6, 2, 80},  {4, 1, 128},
                                      {2, 2, 8},  {2, 1, 256}, {3, 3, 200}};

TEST_P(Backward, Attention) {
  for (const AttentionShape& shape : kShapes) {
    const Workload workload(shape, GetParam(), {1, 37, 64, 130, 65});
    const Gradients found = workload.found(), expected = workload.expected();
    EXPECT_LT(error_of_sequences(found.q, expected.q), tolerance(GetParam())) << shape.head_dim;
    EXPECT_LT(error_of_sequences(found.k, expected.k), tolerance(GetParam())) << shape.head_dim;
    EXPECT_LT(error_of_sequences(found.v, expected.v), tolerance(GetParam())) << shape.head_dim;
  }
}

TEST_P(Backward, AttentionIsTheSameFromRunToRun) {
  const Workload workload({8, 2, 128}, GetParam(), {300, 17, 212});
  const Gradients first = workload.found(), second = workload.found();
  const auto same = [](const MatrixBuffer<float>& a, const MatrixBuffer<float>& b) {
    return std::memcmp(a.data(), b.data(), static_cast<size_t>(a.size()) * sizeof(float)) == 0;
  };
  EXPECT_TRUE(same(first.q, second.q));
  EXPECT_TRUE(same(first.k, second.k));
  EXPECT_TRUE(same(first.v, second.v));
}

}  // namespace
}  // namespace grinqh::cuda
