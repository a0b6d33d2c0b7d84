// Decoding products of unquantized weights, as they lie, against float64.
#include "cuda/dense_gemv.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <stdexcept>

#include "core/error.h"
#include "core/half.h"
#include "gpu.h"
#include "typed_matrix.h"

namespace grinqh {
namespace {

using cuda::GemvInput;
using cuda::Type;
using testing::TypedMatrix;

// Weights of several layers with one input, and everything that may enter a product.
class Problem {
 public:
  enum class Weights { bf16, f16 };

  Problem(std::vector<int64_t> rows, int64_t in, int64_t tokens, Type type, GemvInput::Form form, bool add,
          Weights kind = Weights::bf16)
      : in_(in),
        tokens_(tokens),
        form_(form),
        add_(add),
        x_(testing::random_of(type, tokens, form == GemvInput::Form::swiglu ? 2 * in : in, 1)),
        device_x_(type, scaled_channels()),
        norm_(testing::random_vector(in, 2)),
        device_norm_(testing::device_array(norm_)) {
    for (const int64_t count : rows) {
      if (kind == Weights::f16) {
        add_halves(count);
        continue;
      }
      weights_.push_back(testing::random_of(Type::bf16, count, in, static_cast<uint64_t>(3 + out_)));
      device_weights_.emplace_back(Type::bf16, weights_.back().view());
      views_.push_back(device_weights_.back().view());
      out_ += count;
    }
    bias_ = testing::random_vector(out_, 4);
    device_bias_ = testing::device_array(bias_);
    before_ = testing::random_of(type, tokens, out_, 5);
  }

  const std::vector<cuda::ConstView>& views() const { return views_; }

  // Of one matrix in float16.
  std::unique_ptr<cuda::Gemv> make_f16() const {
    return cuda::make_dense_gemv_f16(device_halves_.data(), out_, in_, stride());
  }

  MatrixBuffer<float> run(cuda::Gemv& gemv) const {
    const TypedMatrix y(device_x_.view().type, before_.view());
    gemv.run({device_x_.view(), form_, device_norm_.data(), 1e-5f}, {}, {y.view(), add_, device_bias_.data()},
             nullptr);
    return y.values();
  }

  // The largest relative error of a token, of the product alone.
  double error(const MatrixBuffer<float>& y) const {
    double most = 0;
    for (int64_t token = 0; token < tokens_; ++token) {
      const std::vector<double> input = made_input(token);
      double difference = 0, norm = 0;
      int64_t n = 0;
      for (const MatrixBuffer<float>& w : weights_)
        for (int64_t r = 0; r < w.view().rows; ++r, ++n) {
          double product = 0;
          for (int64_t i = 0; i < in_; ++i) product += double{w.view()(r, i)} * input[static_cast<size_t>(i)];
          const double expected =
              product + bias_[static_cast<size_t>(n)] + (add_ ? double{before_.view()(token, n)} : 0.0);
          difference += std::pow(y.view()(token, n) - expected, 2);
          norm += product * product;
        }
      most = std::max(most, std::sqrt(difference / norm));
    }
    return most;
  }

 private:
  int64_t stride() const { return (in_ + 8) / 8 * 8; }
  // Behind a row lie NaNs, which must not show; some weights are subnormal.
  void add_halves(int64_t count) {
    weights_.push_back(testing::random_matrix(count, in_, 3));
    std::vector<uint16_t> halves(static_cast<size_t>(count * stride()), 0x7fff);
    for (int64_t r = 0; r < count; ++r)
      for (int64_t i = 0; i < in_; ++i) {
        float& weight = weights_.back().view()(r, i);
        if (i % 7 == 3) weight *= 1e-6f;
        const uint16_t half = to_half(weight);
        halves[static_cast<size_t>(r * stride() + i)] = half;
        weight = from_half(half);
      }
    device_halves_ = testing::device_array(halves);
    out_ += count;
  }
  // Some channels are much larger than the rest.
  Matrix<const float> scaled_channels() {
    for (int64_t token = 0; token < tokens_; ++token)
      for (int64_t i = 3; i < x_.view().cols; i += 97) x_.view()(token, i) *= 64;
    return x_.view();
  }
  std::vector<double> made_input(int64_t token) const {
    std::vector<double> made;
    double squares = 0;
    for (int64_t i = 0; i < in_; ++i) squares += std::pow(x_.view()(token, i), 2);
    for (int64_t i = 0; i < in_; ++i) {
      const double x = x_.view()(token, i);
      if (form_ == GemvInput::Form::plain) made.push_back(x);
      if (form_ == GemvInput::Form::rms_norm)
        made.push_back(x / std::sqrt(squares / static_cast<double>(in_) + 1e-5) *
                       norm_[static_cast<size_t>(i)]);
      if (form_ == GemvInput::Form::swiglu)
        made.push_back(x / (1 + std::exp(-x)) * x_.view()(token, in_ + i));
    }
    return made;
  }

  int64_t in_, tokens_, out_ = 0;
  GemvInput::Form form_;
  bool add_;
  MatrixBuffer<float> x_;
  TypedMatrix device_x_;
  std::vector<float> norm_, bias_;
  cuda::Array<float> device_norm_, device_bias_;
  MatrixBuffer<float> before_;
  std::vector<MatrixBuffer<float>> weights_;
  std::vector<TypedMatrix> device_weights_;
  std::vector<cuda::ConstView> views_;
  cuda::Array<uint16_t> device_halves_;
};

struct Case {
  std::vector<int64_t> rows;
  int64_t in, tokens;
  Type type;
  GemvInput::Form form;
  bool add;
};

TEST(CudaDenseGemv, EveryInputAndShapeAgainstFloat64) {
  if (!testing::has_gpu()) GTEST_SKIP() << "no GPU here";
  using Form = GemvInput::Form;
  for (const Case& c :
       {Case{{64}, 512, 1, Type::f32, Form::plain, false},
        Case{{1000}, 300, 1, Type::bf16, Form::plain, true},
        Case{{33}, 1003, 2, Type::f32, Form::plain, true}, Case{{4500}, 72, 3, Type::f32, Form::plain, false},
        Case{{40, 24, 9}, 520, 4, Type::f32, Form::rms_norm, false},
        Case{{40, 24, 9, 7}, 260, 5, Type::bf16, Form::rms_norm, true},
        Case{{17}, 3104, 8, Type::f32, Form::rms_norm, true},
        Case{{50, 50}, 1032, 8, Type::f32, Form::swiglu, true},
        Case{{5}, 8, 1, Type::f32, Form::swiglu, false},
        Case{{20}, 14336, 7, Type::bf16, Form::swiglu, false},
        Case{{1}, 1, 6, Type::f32, Form::plain, false}}) {
    SCOPED_TRACE(fmt::format("{} rows, {} inputs, {} tokens", c.rows.front(), c.in, c.tokens));
    const Problem problem(c.rows, c.in, c.tokens, c.type, c.form, c.add);
    const auto gemv = cuda::make_dense_gemv(problem.views());
    if (gemv == nullptr) GTEST_SKIP() << "no kernel for this GPU";
    const MatrixBuffer<float> y = problem.run(*gemv);
    EXPECT_LE(problem.error(y), c.type == Type::f32 ? 5e-5 : 4e-3);  // bf16: y is rounded
    const auto copy = gemv->clone(nullptr);
    EXPECT_EQ(gemv->bytes(), 0);
    EXPECT_GE(copy->bytes(), gemv->bytes_read({}));
    const MatrixBuffer<float> same = problem.run(*copy);
    EXPECT_EQ(std::memcmp(y.data(), same.data(), static_cast<size_t>(y.size()) * sizeof(float)), 0);
  }
}

TEST(CudaDenseGemv, RowsOfFloat16AgainstFloat64) {
  if (!testing::has_gpu()) GTEST_SKIP() << "no GPU here";
  using Form = GemvInput::Form;
  for (const Case& c :
       {Case{{64}, 512, 1, Type::f32, Form::plain, false},
        Case{{1000}, 300, 1, Type::bf16, Form::plain, true},
        Case{{33}, 1003, 2, Type::f32, Form::plain, true}, Case{{4500}, 72, 3, Type::f32, Form::plain, false},
        Case{{40}, 260, 5, Type::bf16, Form::rms_norm, true},
        Case{{17}, 3104, 8, Type::f32, Form::rms_norm, true},
        Case{{20}, 14336, 7, Type::bf16, Form::swiglu, false},
        Case{{1}, 1, 6, Type::f32, Form::plain, false}}) {
    SCOPED_TRACE(fmt::format("{} rows, {} inputs, {} tokens", c.rows.front(), c.in, c.tokens));
    const Problem problem(c.rows, c.in, c.tokens, c.type, c.form, c.add, Problem::Weights::f16);
    const auto gemv = problem.make_f16();
    if (gemv == nullptr) GTEST_SKIP() << "no kernel for this GPU";
    const MatrixBuffer<float> y = problem.run(*gemv);
    EXPECT_LE(problem.error(y), c.type == Type::f32 ? 5e-5 : 4e-3);  // bf16: y is rounded
    const MatrixBuffer<float> same = problem.run(*gemv->clone(nullptr));
    EXPECT_EQ(std::memcmp(y.data(), same.data(), static_cast<size_t>(y.size()) * sizeof(float)), 0);
  }
}

TEST(CudaDenseGemv, RefusesToGradeChannels) {
  if (!testing::has_gpu()) GTEST_SKIP() << "no GPU here";
  const Problem problem({16}, 64, 1, Type::f32, GemvInput::Form::plain, false);
  const auto gemv = cuda::make_dense_gemv(problem.views());
  if (gemv == nullptr) GTEST_SKIP() << "no kernel for this GPU";
  const cuda::GradingRule rule;
  const cuda::GemvReading reading{kFullLevel, &rule};
  EXPECT_THROW(gemv->run({}, {&reading, 1}, {}, nullptr), std::logic_error);
}

TEST(CudaDenseGemv, OtherTypesAndUnequalInputsAreNotTaken) {
  if (!testing::has_gpu()) GTEST_SKIP() << "no GPU here";
  const TypedMatrix floats(Type::f32, 16, 64), narrow(Type::bf16, 16, 64), wide(Type::bf16, 16, 72);
  const std::vector<cuda::ConstView> of_floats{floats.view()}, unequal{narrow.view(), wide.view()},
      many(5, narrow.view());
  EXPECT_EQ(cuda::make_dense_gemv(of_floats), nullptr);
  EXPECT_EQ(cuda::make_dense_gemv(unequal), nullptr);
  EXPECT_EQ(cuda::make_dense_gemv(many), nullptr);
}

}  // namespace
}  // namespace grinqh
