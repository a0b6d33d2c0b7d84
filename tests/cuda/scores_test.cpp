// Scores of rows of logits, and the gradient of the loss in them, against float64 on the host.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "cuda/gpu.h"
#include "cuda/scores.h"
#include "cuda/typed_matrix.h"

namespace grinqh {
namespace {

using cuda::RowScore;
using cuda::Type;
using testing::random_of;
using testing::TypedMatrix;

struct Shape {
  Type type;
  int64_t rows, vocab;
};

class CudaScores : public ::testing::TestWithParam<Shape> {
 protected:
  void SetUp() override {
    if (!testing::has_gpu()) GTEST_SKIP() << "no GPU here";
  }
};

double log_sum(const MatrixBuffer<float>& x, int64_t row) {
  const double top = static_cast<double>(*std::max_element(x.row(row), x.row(row) + x.cols()));
  double sum = 0;
  for (int64_t i = 0; i < x.cols(); ++i) sum += std::exp(static_cast<double>(x.row(row)[i]) - top);
  return top + std::log(sum);
}

std::vector<int32_t> targets(int64_t rows, int64_t vocab) {
  std::vector<int32_t> next(static_cast<size_t>(rows));
  for (size_t t = 0; t < next.size(); ++t)
    next[t] = t % 4 == 3 ? -1
                         : static_cast<int32_t>((t * 104729 + static_cast<size_t>(vocab) - 1) %
                                                static_cast<size_t>(vocab));
  return next;
}

TEST_P(CudaScores, OfEveryRowWithATarget) {
  const auto [type, rows, vocab] = GetParam();
  const auto logits = random_of(type, rows, vocab, 1, 4.0);
  auto other = random_of(type, rows, vocab, 2, 0.3);
  for (int64_t i = 0; i < other.size(); ++i)
    other.data()[i] = type == Type::f32 ? other.data()[i] + logits.data()[i]
                                        : rounded_to(DType::bf16, other.data()[i] + logits.data()[i]);
  // A tie: the first of the greatest counts.
  other.row(0)[vocab - 1] = other.row(0)[vocab / 3] = logits.row(0)[vocab / 3] = 40.0f;
  const std::vector<int32_t> next = targets(rows, vocab);
  const auto device_next = testing::device_array(next);
  const RowScore untouched{-7, -7, -7, -7, -7};
  const TypedMatrix device_logits(type, logits), device_other(type, other);
  for (const bool reference : {false, true}) {
    const auto device_scores =
        testing::device_array(std::vector<RowScore>(static_cast<size_t>(rows), untouched));
    cuda::score_rows(device_logits.view(), reference ? device_other.view() : cuda::View(), device_next.data(),
                     device_scores.data(), nullptr);
    const std::vector<RowScore> scores = testing::host_vector(device_scores);
    for (int64_t r = 0; r < rows; ++r) {
      const RowScore& score = scores[static_cast<size_t>(r)];
      const int32_t target = next[static_cast<size_t>(r)];
      if (target < 0) {
        EXPECT_EQ(score.nll, -7);
        continue;
      }
      const double lse = log_sum(logits, r);
      EXPECT_NEAR(score.nll, lse - static_cast<double>(logits.row(r)[target]), 1e-6 * (1 + std::fabs(lse)));
      if (!reference) continue;
      const double lse_float = log_sum(other, r);
      double kl = 0;
      for (int64_t i = 0; i < vocab; ++i) {
        const auto p = static_cast<double>(other.row(r)[i]), q = static_cast<double>(logits.row(r)[i]);
        kl += std::exp(p - lse_float) * ((p - lse_float) - (q - lse));
      }
      EXPECT_NEAR(score.nll_float, lse_float - static_cast<double>(other.row(r)[target]),
                  1e-6 * (1 + std::fabs(lse_float)));
      EXPECT_NEAR(score.kl, kl, 2e-6 * (1 + std::fabs(lse_float)));
      const auto first_top = [&](const MatrixBuffer<float>& m) {
        return std::max_element(m.row(r), m.row(r) + vocab) - m.row(r);
      };
      EXPECT_EQ(score.same_top, first_top(logits) == first_top(other)) << "row " << r;
    }
  }
}

TEST_P(CudaScores, GradientOfTheLoss) {
  const auto [type, rows, vocab] = GetParam();
  if (type != Type::f32) return;
  const auto logits = random_of(type, rows, vocab, 3, 4.0);
  const std::vector<int32_t> next = targets(rows, vocab);
  const auto device_next = testing::device_array(next);
  const cuda::Array<double> losses(rows);
  const TypedMatrix gradient(type, logits);
  cuda::loss_gradient(gradient.view(), device_next.data(), losses.data(), nullptr);
  const MatrixBuffer<float> found = gradient.values();
  const std::vector<double> found_losses = testing::host_vector(losses);
  for (int64_t r = 0; r < rows; ++r) {
    const int32_t target = next[static_cast<size_t>(r)];
    const double lse = log_sum(logits, r);
    const double loss = target < 0 ? 0 : lse - static_cast<double>(logits.row(r)[target]);
    EXPECT_NEAR(found_losses[static_cast<size_t>(r)], loss, 1e-6 * (1 + std::fabs(lse)));
    for (int64_t i = 0; i < vocab; ++i) {
      const double softmax = std::exp(static_cast<double>(logits.row(r)[i]) - lse);
      ASSERT_NEAR(found.row(r)[i], target < 0 ? 0 : softmax - (i == target), 1e-6);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudaScores,
                         ::testing::Values(Shape{Type::f32, 9, 11}, Shape{Type::bf16, 5, 4096},
                                           Shape{Type::f32, 13, 32003}, Shape{Type::bf16, 3, 128256},
                                           Shape{Type::f32, 6, 128256}));

}  // namespace
}  // namespace grinqh
