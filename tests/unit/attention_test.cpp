#include "runtime/attention.h"

#include <gtest/gtest.h>

#include "core/parallel.h"
#include "numbers.h"

namespace grinqh {
namespace {

// By the definition, in float64.
MatrixBuffer<double> by_definition(const AttentionShape& shape, Matrix<const float> q,
                                   Matrix<const float> keys, Matrix<const float> values) {
  MatrixBuffer<double> out(q.rows, q.cols);
  const int64_t dim = shape.head_dim, past = keys.rows - q.rows;
  for (int64_t t = 0; t < q.rows; ++t)
    for (int64_t h = 0; h < shape.heads; ++h) {
      const int64_t kv = h * shape.kv_heads / shape.heads;
      std::vector<double> weights;
      double sum = 0;
      for (int64_t s = 0; s <= past + t; ++s) {
        double score = 0;
        for (int64_t i = 0; i < dim; ++i)
          score += static_cast<double>(q(t, h * dim + i)) * static_cast<double>(keys(s, kv * dim + i));
        weights.push_back(std::exp(score / std::sqrt(static_cast<double>(dim))));
        sum += weights.back();
      }
      for (int64_t i = 0; i < dim; ++i) {
        double mixed = 0;
        for (size_t s = 0; s < weights.size(); ++s)
          mixed += weights[s] / sum * static_cast<double>(values(static_cast<int64_t>(s), kv * dim + i));
        out.view()(t, h * dim + i) = mixed;
      }
    }
  return out;
}

struct Case {
  AttentionShape shape;
  int64_t tokens, past;
};

void PrintTo(const Case& each, std::ostream* out) {
  *out << each.shape.heads << "/" << each.shape.kv_heads << " heads of " << each.shape.head_dim << ", "
       << each.tokens << " tokens after " << each.past;
}

class Attention : public ::testing::TestWithParam<Case> {};

TEST_P(Attention, IsTheDefinition) {
  const auto& [shape, tokens, past] = GetParam();
  const int64_t width = shape.heads * shape.head_dim, kv_width = shape.kv_heads * shape.head_dim;
  const MatrixBuffer<float> q = testing::random_matrix(tokens, width, 1, 2.0);
  const MatrixBuffer<float> keys = testing::random_matrix(past + tokens, kv_width, 2);
  const MatrixBuffer<float> values = testing::random_matrix(past + tokens, kv_width, 3);
  MatrixBuffer<float> out(tokens, width);
  std::fill_n(out.data(), out.size(), NAN);
  parallel_for(attention_tasks(shape, tokens),
               [&](int64_t task) { attention_task(shape, task, q, keys, values, out); });
  EXPECT_LT(testing::worst_row_error(out.view(), by_definition(shape, q, keys, values).view()), 2e-6);
}

TEST_P(Attention, LaterTokensAreNotSeen) {
  const auto& [shape, tokens, past] = GetParam();
  const int64_t width = shape.heads * shape.head_dim, kv_width = shape.kv_heads * shape.head_dim;
  const MatrixBuffer<float> q = testing::random_matrix(tokens, width, 1);
  MatrixBuffer<float> keys = testing::random_matrix(past + tokens, kv_width, 2);
  MatrixBuffer<float> values = testing::random_matrix(past + tokens, kv_width, 3);
  MatrixBuffer<float> before(tokens, width), after(tokens, width);
  const auto run = [&](Matrix<float> out) {
    for (int64_t task = 0; task < attention_tasks(shape, tokens); ++task)
      attention_task(shape, task, q, keys, values, out);
  };
  run(before);
  std::fill_n(keys.row(keys.rows() - 1), kv_width, 50.0f);
  std::fill_n(values.row(values.rows() - 1), kv_width, 50.0f);
  run(after);
  const size_t unaffected = static_cast<size_t>((tokens - 1) * width);
  EXPECT_TRUE(std::equal(before.data(), before.data() + unaffected, after.data()));
  EXPECT_FALSE(std::equal(before.row(tokens - 1), before.row(tokens - 1) + width, after.row(tokens - 1)));
}

INSTANTIATE_TEST_SUITE_P(Shapes, Attention,
                         ::testing::Values(Case{{1, 1, 4}, 1, 0}, Case{{4, 2, 6}, 3, 0},
                                           Case{{4, 4, 8}, 65, 0}, Case{{6, 2, 5}, 130, 0},
                                           Case{{4, 1, 16}, 64, 7}, Case{{4, 2, 6}, 1, 100},
                                           Case{{8, 2, 64}, 70, 33}));

TEST(AttentionScores, AsLargeAsTheyComeDoNotOverflow) {
  const AttentionShape shape{1, 1, 4};
  const MatrixBuffer<float> q = testing::random_matrix(3, 4, 1, 1e4),
                            keys = testing::random_matrix(3, 4, 2, 1e4);
  const MatrixBuffer<float> values = testing::random_matrix(3, 4, 3);
  MatrixBuffer<float> out(3, 4);
  attention_task(shape, 0, q, keys, values, out);
  // Scores differ by far more than float32 resolves after exp(): one key takes all.
  for (int64_t t = 0; t < 3; ++t) {
    int64_t best = 0;
    double best_score = -HUGE_VAL;
    for (int64_t s = 0; s <= t; ++s) {
      double score = 0;
      for (int64_t i = 0; i < 4; ++i)
        score += static_cast<double>(q.view()(t, i)) * static_cast<double>(keys.view()(s, i));
      if (score > best_score) best = s, best_score = score;
    }
    for (int64_t i = 0; i < 4; ++i) EXPECT_FLOAT_EQ(out.view()(t, i), values.view()(best, i));
  }
}

}  // namespace
}  // namespace grinqh
