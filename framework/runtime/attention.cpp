#include "runtime/attention.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/gemm.h"
#include "core/vector_math.h"

namespace grinqh {

namespace {
constexpr int64_t kTileQueries = 64;  // scores of a tile stay in the L2 cache at usual contexts
}

int64_t attention_tasks(const AttentionShape& shape, int64_t tokens) {
  return shape.heads * ((tokens + kTileQueries - 1) / kTileQueries);
}

void attention_task(const AttentionShape& shape, int64_t task, Matrix<const float> q,
                    Matrix<const float> keys, Matrix<const float> values, Matrix<float> out) {
  const int64_t head = task % shape.heads;
  const int64_t kv_head = head / (shape.heads / shape.kv_heads);
  const int64_t begin = task / shape.heads * kTileQueries;
  const int64_t end = std::min(begin + kTileQueries, q.rows);
  const int64_t past = keys.rows - q.rows;
  const int64_t seen = past + end;  // keys that the last query of the tile sees
  const auto head_cols = [&](auto matrix, int64_t h) {
    return matrix.cols_between(h * shape.head_dim, (h + 1) * shape.head_dim);
  };

  thread_local std::vector<float> query_scratch, score_scratch;
  query_scratch.resize(static_cast<size_t>((end - begin) * shape.head_dim));
  score_scratch.resize(static_cast<size_t>((end - begin) * seen));
  const Matrix<float> queries(query_scratch.data(), end - begin, shape.head_dim);
  const Matrix<float> scores(score_scratch.data(), end - begin, seen);
  const float scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
  for (int64_t r = 0; r < queries.rows; ++r)
    for (int64_t i = 0; i < shape.head_dim; ++i)
      queries(r, i) = scale * q(begin + r, head * shape.head_dim + i);
  matmul_nt_serial(queries, head_cols(keys.rows_between(0, seen), kv_head), scores);
  double sums[kTileQueries];
  for (int64_t r = 0; r < scores.rows; ++r) {
    const std::span<float> row = scores.row_span(r);
    const std::span<float> visible = row.first(static_cast<size_t>(past + begin + r + 1));
    sums[r] = exp_shifted(visible, maximum(visible));
    std::ranges::fill(row.subspan(visible.size()), 0.0f);
  }
  const Matrix<float> result = head_cols(out.rows_between(begin, end), head);
  matmul_nn_serial(scores, head_cols(values.rows_between(0, seen), kv_head), result);
  for (int64_t r = 0; r < result.rows; ++r) {
    const auto share = static_cast<float>(1.0 / sums[r]);
    for (float& value : result.row_span(r)) value *= share;
  }
}

}  // namespace grinqh
