#include "runtime/attention_backward.h"

#include <gtest/gtest.h>

#include <set>

#include "core/parallel.h"
#include "numbers.h"

namespace grinqh {
namespace {

// sum over elements of (out o d_out), in float64 by the definition of attention.
double product(const AttentionShape& shape, Matrix<const float> d_out, const std::vector<double>& q,
               const std::vector<double>& keys, const std::vector<double>& values) {
  const int64_t dim = shape.head_dim, width = shape.heads * dim, kv_width = shape.kv_heads * dim;
  double total = 0;
  for (int64_t t = 0; t < d_out.rows; ++t)
    for (int64_t h = 0; h < shape.heads; ++h) {
      const int64_t kv = h * shape.kv_heads / shape.heads;
      double sum = 0, mixed = 0;
      for (int64_t s = 0; s <= t; ++s) {
        double score = 0, along = 0;
        for (int64_t i = 0; i < dim; ++i) {
          score += q[static_cast<size_t>(t * width + h * dim + i)] *
                   keys[static_cast<size_t>(s * kv_width + kv * dim + i)];
          along += static_cast<double>(d_out(t, h * dim + i)) *
                   values[static_cast<size_t>(s * kv_width + kv * dim + i)];
        }
        const double share = std::exp(score / std::sqrt(static_cast<double>(dim)));
        sum += share;
        mixed += share * along;
      }
      total += mixed / sum;
    }
  return total;
}

std::vector<double> doubles(Matrix<const float> x) { return {x.data, x.data + x.rows * x.cols}; }

struct Case {
  AttentionShape shape;
  int64_t tokens;
};

void PrintTo(const Case& each, std::ostream* out) {
  *out << each.shape.heads << "/" << each.shape.kv_heads << " heads of " << each.shape.head_dim << ", "
       << each.tokens << " tokens";
}

class AttentionGradients : public ::testing::TestWithParam<Case> {};

TEST_P(AttentionGradients, AreThoseOfCentralDifferences) {
  const auto& [shape, tokens] = GetParam();
  const int64_t width = shape.heads * shape.head_dim, kv_width = shape.kv_heads * shape.head_dim;
  const MatrixBuffer<float> q = testing::random_matrix(tokens, width, 1, 2.0);
  const MatrixBuffer<float> keys = testing::random_matrix(tokens, kv_width, 2);
  const MatrixBuffer<float> values = testing::random_matrix(tokens, kv_width, 3);
  const MatrixBuffer<float> d_out = testing::random_matrix(tokens, width, 4);
  MatrixBuffer<float> out(tokens, width), d_q(tokens, width), d_keys(tokens, kv_width),
      d_values(tokens, kv_width);
  for (const MatrixBuffer<float>* each : {&d_q, &d_keys, &d_values})
    std::fill_n(each->data(), each->size(), NAN);
  parallel_for(attention_tasks(shape, tokens),
               [&](int64_t task) { attention_task(shape, task, q, keys, values, out); });
  parallel_for(shape.kv_heads, [&](int64_t task) {
    attention_backward_task(shape, task,
                            {.q = q.view(),
                             .out = out.view(),
                             .d_out = d_out.view(),
                             .keys = keys.view(),
                             .values = values.view()},
                            d_q, d_keys, d_values);
  });

  std::vector<std::vector<double>> at{doubles(q), doubles(keys), doubles(values)};
  const std::vector<const MatrixBuffer<float>*> gradients{&d_q, &d_keys, &d_values};
  for (size_t which = 0; which < 3; ++which) {
    const MatrixBuffer<float>& gradient = *gradients[which];
    std::vector<double> found, expected;
    for (const int64_t row : std::set<int64_t>{0, 1, tokens / 2, tokens - 2, tokens - 1})
      for (int64_t col = row % 3; col < gradient.cols(); col += 5) {
        constexpr double kStep = 1e-5;
        double& value = at[which][static_cast<size_t>(row * gradient.cols() + col)];
        const double before = value;
        value = before + kStep;
        const double above = product(shape, d_out, at[0], at[1], at[2]);
        value = before - kStep;
        expected.push_back((above - product(shape, d_out, at[0], at[1], at[2])) / (2 * kStep));
        value = before;
        found.push_back(static_cast<double>(gradient.row(row)[col]));
      }
    EXPECT_LT(testing::relative_error(std::span<const double>(found), std::span<const double>(expected)),
              2e-6)
        << "gradient " << which;
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, AttentionGradients,
                         ::testing::Values(Case{{1, 1, 8}, 5}, Case{{4, 2, 4}, 63}, Case{{4, 2, 6}, 65},
                                           Case{{3, 1, 10}, 131}, Case{{2, 2, 64}, 64}));

}  // namespace
}  // namespace grinqh
