#include "runtime/attention_backward.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/gemm.h"
#include "core/vector_math.h"

namespace grinqh {

namespace {

constexpr int64_t kTileQueries = 64;

// Storage that grows and is used again by the thread's next task.
Matrix<float> scratch(std::vector<float>& storage, int64_t rows, int64_t cols) {
  storage.resize(static_cast<size_t>(rows * cols));
  return {storage.data(), rows, cols};
}

void fill(Matrix<float> x, float value) {
  for (int64_t r = 0; r < x.rows; ++r) std::ranges::fill(x.row_span(r), value);
}

// Row r of a tile that begins at query `begin` sees begin + r + 1 keys.
void causal_softmax(Matrix<float> scores, int64_t begin) {
  for (int64_t r = 0; r < scores.rows; ++r) {
    const std::span<float> row = scores.row_span(r);
    const std::span<float> visible = row.first(static_cast<size_t>(begin + r + 1));
    const auto share = static_cast<float>(1.0 / exp_shifted(visible, maximum(visible)));
    for (float& value : visible) value *= share;
    std::ranges::fill(row.subspan(visible.size()), 0.0f);
  }
}

// The softmax's backward pass: dS = P o (dP - sum_j P_j dP_j), where the sum is that of out o d_out. d_p
// becomes dS.
void softmax_backward(Matrix<const float> p, Matrix<const float> out, Matrix<const float> d_out,
                      Matrix<float> d_p) {
  for (int64_t r = 0; r < p.rows; ++r) {
    double sum = 0;
    for (int64_t i = 0; i < out.cols; ++i)
      sum += static_cast<double>(out(r, i)) * static_cast<double>(d_out(r, i));
    const auto mean = static_cast<float>(sum);
    const float* share = p.row(r);
    float* gradient = d_p.row(r);
    for (int64_t j = 0; j < p.cols; ++j) gradient[j] = share[j] * (gradient[j] - mean);
  }
}

}  // namespace

void attention_backward_task(const AttentionShape& shape, int64_t task, const AttentionRecord& record,
                             Matrix<float> d_q, Matrix<float> d_keys, Matrix<float> d_values) {
  thread_local std::vector<float> query_storage, p_storage, d_p_storage;
  const auto head_cols = [&](auto matrix, int64_t head) {
    return matrix.cols_between(head * shape.head_dim, (head + 1) * shape.head_dim);
  };
  const Matrix<const float> keys = head_cols(record.keys, task), values = head_cols(record.values, task);
  const Matrix<float> key_gradient = head_cols(d_keys, task), value_gradient = head_cols(d_values, task);
  fill(key_gradient, 0.0f);
  fill(value_gradient, 0.0f);
  const float scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
  const int64_t group = shape.heads / shape.kv_heads, tokens = record.q.rows;
  for (int64_t head = task * group; head < (task + 1) * group; ++head)
    for (int64_t begin = 0; begin < tokens; begin += kTileQueries) {
      const int64_t end = std::min(begin + kTileQueries, tokens);
      const auto tile = [&](auto matrix) { return head_cols(matrix.rows_between(begin, end), head); };
      const Matrix<const float> d_out = tile(record.d_out);
      const Matrix<float> queries = scratch(query_storage, end - begin, shape.head_dim);
      for (int64_t r = 0; r < queries.rows; ++r)
        for (int64_t i = 0; i < queries.cols; ++i) queries(r, i) = scale * tile(record.q)(r, i);

      const Matrix<float> p = scratch(p_storage, end - begin, end);
      matmul_nt_serial(queries, keys.rows_between(0, end), p);
      causal_softmax(p, begin);
      matmul_tn_serial(p, d_out, value_gradient.rows_between(0, end), 1.0f, Output::add);

      const Matrix<float> d_scores = scratch(d_p_storage, end - begin, end);
      matmul_nt_serial(d_out, values.rows_between(0, end), d_scores);
      softmax_backward(p, tile(record.out), d_out, d_scores);
      matmul_tn_serial(d_scores, queries, key_gradient.rows_between(0, end), 1.0f, Output::add);
      const Matrix<float> query_gradient = tile(d_q);
      matmul_nn_serial(d_scores, keys.rows_between(0, end), query_gradient);
      for (int64_t r = 0; r < query_gradient.rows; ++r)
        for (float& value : query_gradient.row_span(r)) value *= scale;
    }
}

}  // namespace grinqh
