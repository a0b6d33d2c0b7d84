// What every decoding kernel of the CPU must hold, whatever its layout.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "core/error.h"
#include "numbers.h"
#include "quant/gemv.h"

namespace grinqh::testing {

// Every instruction set that the kernels are built for and this processor has, one after the other.
template <class Body>
void with_every_instruction_set(const Body& body) {
  for (const std::string& name : gemv_instruction_sets()) {
    SCOPED_TRACE(name);
    set_gemv_instruction_set(name);
    body();
  }
  set_gemv_instruction_set("");
}

// y = x W^T in float64, each token with the weights at its own levels.
inline MatrixBuffer<double> by_definition(const QuantizedLinear& layer, Matrix<const float> x,
                                          const Precision& precision) {
  MatrixBuffer<double> y(x.rows, layer.out());
  MatrixBuffer<float> w(layer.out(), layer.in());
  for (int64_t t = 0; t < x.rows; ++t) {
    const std::vector<Level> uniform(static_cast<size_t>(layer.in()), layer.resolve(precision.uniform));
    layer.dequantize_rows(precision.levels.empty() ? std::span<const Level>(uniform)
                                                   : std::span<const Level>(precision.levels.row_span(t)),
                          0, layer.out(), w);
    const MatrixBuffer<double> row = product_nt(x.rows_between(t, t + 1), w);
    std::copy_n(row.data(), row.size(), y.row(t));
  }
  return y;
}

inline MatrixBuffer<float> run(const Gemv& gemv, Matrix<const float> x, const Precision& precision) {
  MatrixBuffer<float> y(x.rows, gemv.out());
  std::fill_n(y.data(), y.size(), std::nanf(""));
  gemv.run(x, precision, y);
  return y;
}

inline bool same_bits(Matrix<const float> a, Matrix<const float> b) {
  for (int64_t t = 0; t < a.rows; ++t)
    if (std::memcmp(a.row(t), b.row(t), static_cast<size_t>(a.cols) * sizeof(float)) != 0) return false;
  return true;
}

// What a layer may be multiplied by: its kernels that take it; graded: those that grade.
inline std::vector<std::unique_ptr<Gemv>> gemvs_of(const QuantizedLinear& layer, bool graded = false) {
  std::vector<std::unique_ptr<Gemv>> made;
  for (const GemvKernel& kernel : gemv_kernels(layer.layout()))
    if (!graded || kernel.grades == GemvKernel::Grades::yes)
      if (auto gemv = kernel.make(layer)) made.push_back(std::move(gemv));
  return made;
}

// Against the definition, by every instruction set; and the same bits from a clone, from other numbers of
// threads and for a token alone.
inline void expect_products(const QuantizedLinear& layer, Matrix<const float> x, const Precision& precision) {
  const MatrixBuffer<double> expected = by_definition(layer, x, precision);
  const auto gemvs = gemvs_of(layer, !precision.levels.empty() || precision.uniform == 0);
  ASSERT_FALSE(gemvs.empty());
  for (const auto& gemv : gemvs) {
    const auto clone = gemv->clone();
    with_every_instruction_set([&] {
      const MatrixBuffer<float> y = run(*gemv, x, precision);
      EXPECT_LE(worst_row_error(y.view(), expected.view()), 0.5 * gemv->tolerance());
      EXPECT_TRUE(same_bits(y, run(*clone, x, precision)));
      for (const int count : {1, 3}) {
        const Threads threads(count);
        EXPECT_TRUE(same_bits(y, run(*gemv, x, precision))) << count << " threads";
      }
      Precision alone = precision;
      const int64_t last = x.rows - 1;
      if (!alone.levels.empty()) alone.levels = alone.levels.rows_between(last, x.rows);
      EXPECT_TRUE(
          same_bits(y.view().rows_between(last, x.rows), run(*gemv, x.rows_between(last, x.rows), alone)));
    });
  }
}

// Channels that are left out hide what is no number, others do not; and nothing read is nothing. gemv: of a
// layer of 70 x 300 that grades. full: the level of a channel that is read.
inline void expect_left_out_channels_unseen(const Gemv& gemv, Level full) {
  MatrixBuffer<float> x = random_matrix(2, 300, 5);
  MatrixBuffer<Level> levels(2, 300);
  std::fill_n(levels.data(), levels.size(), full);
  x.row(0)[70] = std::nanf("");
  levels.row(0)[70] = 0;
  x.row(1)[299] = HUGE_VALF;
  with_every_instruction_set([&] {
    const MatrixBuffer<float> y = run(gemv, x, {kFullLevel, levels.view()});
    for (int64_t n = 0; n < 70; ++n) {
      EXPECT_TRUE(std::isfinite(y.row(0)[n]));
      EXPECT_FALSE(std::isfinite(y.row(1)[n]));
    }
    const MatrixBuffer<float> nothing = run(gemv, x, {0, {}});
    EXPECT_EQ(std::count(nothing.data(), nothing.data() + nothing.size(), 0.0f), nothing.size());
  });
}

// Inputs of zeros give zeros, by every kernel and instruction set; an input that is no number is in all
// outputs.
inline void expect_no_number_is_hidden(const QuantizedLinear& layer, const Precision& precision) {
  auto x = MatrixBuffer<float>::zeroed(3, layer.in());
  x.row(1)[layer.in() / 3] = std::nanf("");
  x.row(2)[layer.in() - 2] = x.row(2)[layer.in() - 1] = -HUGE_VALF;
  for (const auto& gemv : gemvs_of(layer)) {
    with_every_instruction_set([&] {
      const MatrixBuffer<float> y = run(*gemv, x, precision);
      for (int64_t n = 0; n < layer.out(); ++n) {
        EXPECT_EQ(y.row(0)[n], 0.0f);
        EXPECT_FALSE(std::isfinite(y.row(1)[n]));
        EXPECT_FALSE(std::isfinite(y.row(2)[n]));
      }
    });
  }
}

}  // namespace grinqh::testing
