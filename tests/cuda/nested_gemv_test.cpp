// Products with packed layers of layout "nested" against float64 sums over dequantize_rows.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "core/dtype.h"
#include "core/half.h"
#include "core/rng.h"
#include "cuda/gemv.h"
#include "gpu.h"
#include "kernels/nested/layout.h"
#include "quant/grading.h"
#include "typed_matrix.h"

namespace grinqh {
namespace {

using cuda::Type;
using testing::TypedMatrix;

std::unique_ptr<NestedLinear> layer_of(NestedShape shape) {
  Rng rng(static_cast<uint64_t>(shape.out * 31 + shape.in));
  MatrixBuffer<uint8_t> codes(shape.out, shape.in);
  for (int64_t i = 0; i < codes.size(); ++i) codes.data()[i] = static_cast<uint8_t>(rng.below(256));
  std::vector<uint16_t> scales, minima, table;
  for (int64_t i = 0; i < shape.parameters(); ++i) {
    const double scale = 0.0005 + 0.001 * rng.uniform();
    scales.push_back(to_half(static_cast<float>(scale)));
    minima.push_back(to_half(static_cast<float>(-scale * (100 + 56 * rng.uniform()))));
  }
  for (int level = 1; level <= shape.table_levels; ++level)
    for (int prefix = 0; prefix < 1 << level; ++prefix)
      table.push_back(to_half(static_cast<float>((prefix + rng.uniform()) * (255 >> level))));
  return std::make_unique<NestedLinear>(std::move(shape), codes, std::move(scales), std::move(minima),
                                        std::move(table));
}

std::unique_ptr<cuda::Gemv> make(const std::vector<const QuantizedLinear*>& layers) {
  const auto kernels = cuda::gemv_kernels("nested");
  EXPECT_EQ(kernels.size(), 1u);
  return kernels.at(0).make(layers, nullptr);
}
std::unique_ptr<cuda::Gemv> make(const QuantizedLinear& layer) { return make(std::vector{&layer}); }

// y in float64, the channels of every token at their levels; x: [tokens, in], levels likewise.
MatrixBuffer<double> expected(const QuantizedLinear& layer, Matrix<const float> x,
                              Matrix<const Level> levels) {
  MatrixBuffer<double> y(x.rows, layer.out());
  MatrixBuffer<float> w(layer.out(), layer.in());
  for (int64_t t = 0; t < x.rows; ++t) {
    layer.dequantize_rows({levels.row(t), static_cast<size_t>(layer.in())}, 0, layer.out(), w.view());
    for (int64_t n = 0; n < layer.out(); ++n) {
      double sum = 0;
      for (int64_t i = 0; i < layer.in(); ++i) sum += static_cast<double>(x(t, i)) * w.row(n)[i];
      y.row(t)[n] = sum;
    }
  }
  return y;
}

void expect_close(Matrix<const float> y, const MatrixBuffer<double>& reference, double tolerance) {
  double error = 0, size = 0;
  for (int64_t t = 0; t < y.rows; ++t)
    for (int64_t n = 0; n < y.cols; ++n) {
      const double right = reference.row(t)[n];
      error += std::pow(y(t, n) - right, 2);
      size += right * right;
    }
  EXPECT_LE(std::sqrt(error), tolerance * std::sqrt(size));  // nothing read is nothing
}

// Thresholds of |x| for the steps between the levels of a rule, one for all channels or one each.
struct Rule {
  MatrixBuffer<float> thresholds;
  cuda::Array<float> on_device;
  cuda::GradingRule rule;

  Rule(std::span<const Level> levels, int64_t channels)
      : thresholds(static_cast<int64_t>(levels.size()) - 1, channels) {
    Rng rng(5);
    for (int64_t j = 0; j < thresholds.rows(); ++j)
      for (int64_t i = 0; i < channels; ++i)
        thresholds.row(j)[i] =
            static_cast<float>((0.4 + 0.5 * static_cast<double>(j)) * (1 + 0.1 * rng.uniform()));
    on_device =
        testing::device_array(std::vector<float>(thresholds.data(), thresholds.data() + thresholds.size()));
    rule.thresholds = on_device.data();
    rule.shared = channels == 1;
    rule.count = static_cast<int32_t>(levels.size());
    std::ranges::copy(levels, rule.levels);
  }
  void grade(std::span<const float> x, std::span<Level> levels) const {
    const auto in = static_cast<int64_t>(x.size());
    MatrixBuffer<float> all(thresholds.rows(), in);
    std::vector<Level> increments;
    for (int64_t j = 0; j < thresholds.rows(); ++j) {
      for (int64_t i = 0; i < in; ++i) all.row(j)[i] = thresholds.row(j)[rule.shared ? 0 : i];
      increments.push_back(static_cast<Level>(rule.levels[j + 1] - rule.levels[j]));
    }
    grinqh::grade(x, all, increments, rule.levels[0], levels);
  }
};

class CudaNestedGemv : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!testing::has_gpu()) GTEST_SKIP() << "no GPU here";
    if (make(*layer_of({8, 32, 0, GroupAxis::input, {2}})) == nullptr)
      GTEST_SKIP() << "no kernel for this GPU";
  }
};

// A token's inputs: normal numbers, a channel in a hundred ten times as large.
MatrixBuffer<float> inputs_of(Type type, int64_t tokens, int64_t in) {
  MatrixBuffer<float> x = testing::random_of(type, tokens, in, static_cast<uint64_t>(tokens));
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t i = 7 * t; i < in; i += 100) x.row(t)[i] *= 8;
  return x;
}

// Both types of x and y, twice: the same bits.
void expect_right(const QuantizedLinear& layer, cuda::Gemv& gemv, int64_t tokens, Type type, Level level,
                  const Rule* rule) {
  const MatrixBuffer<float> x = inputs_of(type, tokens, layer.in());
  MatrixBuffer<Level> levels(tokens, layer.in());
  for (int64_t t = 0; t < tokens; ++t) {
    const std::span<Level> row(levels.row(t), static_cast<size_t>(layer.in()));
    std::ranges::fill(row, layer.resolve(level));
    if (rule != nullptr) rule->grade({x.row(t), row.size()}, row);
  }
  const TypedMatrix input(type, x);
  const TypedMatrix first(type, tokens, layer.out()), second(type, tokens, layer.out());
  const cuda::GemvReading reading{level, rule == nullptr ? nullptr : &rule->rule};
  gemv.run({input.view()}, {&reading, 1}, {first.view()}, nullptr);
  gemv.run({input.view()}, {&reading, 1}, {second.view()}, nullptr);
  const MatrixBuffer<float> y = first.values(), again = second.values();
  EXPECT_EQ(std::memcmp(y.data(), again.data(), static_cast<size_t>(y.size()) * sizeof(float)), 0);
  expect_close(y, expected(layer, x, levels), gemv.tolerance() + (type == Type::bf16 ? 0x1p-9 : 0));
}

struct Case {
  int64_t out, in, group;
};
// Whole and cut tiles of either width, whole and cut groups, more blocks of threads than work.
constexpr Case kCases[] = {{1024, 512, 128}, {70, 300, 128},   {300, 1000, 32}, {3000, 96, 0},
                           {1, 1, 128},      {130, 9100, 256}, {1030, 130, 0},  {257, 777, 64}};

TEST_F(CudaNestedGemv, AgreesWithTheOracle) {
  for (const Case& each : kCases)
    for (const GroupAxis axis : {GroupAxis::input, GroupAxis::output})
      for (const std::vector<Level>& levels :
           {std::vector<Level>{0, 2, 4, 8}, {2, 3, 4, 8}, {0, 1, 3, 7}, {0, 5}}) {
        const int64_t group = axis == GroupAxis::output && each.group == 32 ? 64 : each.group;
        const auto layer = layer_of({each.out, each.in, group, axis, levels});
        const auto gemv = make(*layer);
        ASSERT_NE(gemv, nullptr);
        const Rule shared(levels, 1), own(levels, each.in);
        for (const int64_t tokens : {1, 3, 8}) {
          SCOPED_TRACE(fmt::format("{} x {}, group {}, axis {}, up to level {}, {} tokens", each.out, each.in,
                                   group, static_cast<int>(axis), levels.back(), tokens));
          const auto least = *std::ranges::find_if(levels, [](Level level) { return level > 0; });
          expect_right(*layer, *gemv, tokens, Type::f32, kFullLevel, nullptr);
          expect_right(*layer, *gemv, tokens, Type::bf16, least, nullptr);
          expect_right(*layer, *gemv, tokens, Type::f32, kFullLevel, &shared);
          expect_right(*layer, *gemv, tokens, Type::bf16, kFullLevel, &own);
          if (HasFailure()) return;
        }
      }
}

// More channels a warp than its ring holds, than four a lane cover, than one unit has (132 multiprocessors).
TEST_F(CudaNestedGemv, LongRunsAgreeWithTheOracle) {
  const std::vector<Level> levels{0, 1, 3, 7};
  for (const Case& each : {Case{2560, 20480, 128}, {2560, 36000, 128}, {5120, 28000, 128}}) {
    SCOPED_TRACE(fmt::format("{} x {}", each.out, each.in));
    const auto layer = layer_of({each.out, each.in, each.group, GroupAxis::output, levels});
    const auto gemv = make(*layer);
    ASSERT_NE(gemv, nullptr);
    const Rule shared(levels, 1), own(levels, each.in);
    expect_right(*layer, *gemv, 1, Type::bf16, kFullLevel, nullptr);
    expect_right(*layer, *gemv, 1, Type::bf16, kFullLevel, &shared);
    expect_right(*layer, *gemv, 1, Type::f32, kFullLevel, &own);
    expect_right(*layer, *gemv, 4, Type::bf16, kFullLevel, &shared);
    expect_right(*layer, *gemv, 2, Type::f32, 3, nullptr);
  }
}

// Entries that are far from the middles of cells, and differ between levels.
TEST_F(CudaNestedGemv, TablesDecodeTheirLevels) {
  for (const Case& each : kCases)
    for (const GroupAxis axis : {GroupAxis::input, GroupAxis::output})
      for (const std::vector<Level>& levels :
           {std::vector<Level>{0, 2, 4, 8}, {2, 3, 4, 8}, {0, 1, 3, 7}, {0, 4}})
        for (const int tables : {2, 4}) {
          const int64_t group = axis == GroupAxis::output && each.group == 32 ? 64 : each.group;
          const auto layer = layer_of({each.out, each.in, group, axis, levels, tables});
          const auto gemv = make(*layer);
          ASSERT_NE(gemv, nullptr);
          const Rule shared(levels, 1), own(levels, each.in);
          SCOPED_TRACE(fmt::format("{} x {}, group {}, axis {}, {} levels up to {}, tables up to {}",
                                   each.out, each.in, group, static_cast<int>(axis), levels.size(),
                                   levels.back(), tables));
          for (const Level level : levels)
            if (level > 0) expect_right(*layer, *gemv, 1, Type::f32, level, nullptr);
          expect_right(*layer, *gemv, 1, Type::f32, kFullLevel, &shared);
          expect_right(*layer, *gemv, 3, Type::bf16, kFullLevel, &own);
          if (HasFailure()) return;
        }
}

TEST_F(CudaNestedGemv, ACloneHasTheSameWeights) {
  const auto layer = layer_of({300, 260, 128, GroupAxis::input, {0, 2, 4, 8}});
  const auto clone = make(*layer)->clone(nullptr);
  expect_right(*layer, *clone, 3, Type::f32, 4, nullptr);
}

// Each layer reads by its own rule or level; what is made of x on the way in by its formula in float64.
TEST_F(CudaNestedGemv, SeveralLayersAtOnceFromANormalizedOrGatedInput) {
  constexpr int64_t kIn = 520, kTokens = 3;
  std::vector<std::unique_ptr<NestedLinear>> layers;
  std::vector<const QuantizedLinear*> listed;
  int64_t out = 0;
  for (const int64_t rows : {140, 24, 300}) {
    layers.push_back(layer_of({rows, kIn, 128, GroupAxis::output, {0, 2, 4, 8}}));
    listed.push_back(layers.back().get());
    out += rows;
  }
  const auto gemv = make(listed);
  ASSERT_NE(gemv, nullptr);
  ASSERT_EQ(gemv->out(), out);
  const Rule shared(layers[0]->levels(), 1), own(layers[0]->levels(), kIn);
  const cuda::GemvReading readings[] = {{kFullLevel, &shared.rule}, {4, nullptr}, {kFullLevel, &own.rule}};
  const MatrixBuffer<float> norm = testing::random_matrix(1, kIn, 7),
                            bias = testing::random_matrix(1, out, 8),
                            before = testing::random_matrix(kTokens, out, 9);
  const auto device_norm = testing::device_array(std::vector<float>(norm.data(), norm.data() + kIn)),
             device_bias = testing::device_array(std::vector<float>(bias.data(), bias.data() + out));
  using Form = cuda::GemvInput::Form;
  for (const auto& [form, type] : {std::pair{Form::rms_norm, Type::f32},
                                   {Form::rms_norm, Type::bf16},
                                   {Form::swiglu, Type::f32},
                                   {Form::swiglu, Type::bf16}}) {
    const bool gated = form == Form::swiglu;
    const MatrixBuffer<float> given = testing::random_of(type, kTokens, 2 * kIn, 6);
    const TypedMatrix input(type, given), output(Type::f32, before);
    cuda::ConstView x = input.view();
    if (!gated) x.cols = kIn;
    gemv->run({x, form, device_norm.data(), 1e-5f}, readings, {output.view(), true, device_bias.data()},
              nullptr);
    const MatrixBuffer<float> y = output.values();
    MatrixBuffer<float> made(kTokens, kIn);
    for (int64_t t = 0; t < kTokens; ++t) {
      const float* row = given.view().row(t);
      double squares = 0;
      for (int64_t i = 0; i < kIn; ++i) squares += double{row[i]} * row[i];
      const double factor = 1.0 / std::sqrt(squares / kIn + 1e-5);
      for (int64_t i = 0; i < kIn; ++i)
        made.row(t)[i] = static_cast<float>(gated ? row[i] / (1.0 + std::exp(-double{row[i]})) * row[kIn + i]
                                                  : row[i] * factor * norm.row(0)[i]);
    }
    int64_t n = 0;
    for (size_t l = 0; l < layers.size(); ++l) {
      MatrixBuffer<Level> levels(kTokens, kIn);
      for (int64_t t = 0; t < kTokens; ++t) {
        const std::span<Level> row(levels.row(t), kIn);
        std::ranges::fill(row, Level{4});
        if (l != 1) (l == 0 ? shared : own).grade({made.row(t), kIn}, row);
      }
      MatrixBuffer<double> product = expected(*layers[l], made, levels);
      MatrixBuffer<float> got(kTokens, layers[l]->out());
      for (int64_t t = 0; t < kTokens; ++t)
        for (int64_t r = 0; r < layers[l]->out(); ++r)
          got.row(t)[r] = y.view()(t, n + r) - before.view()(t, n + r) - bias.view()(0, n + r);
      // A channel at the edge of a step may fall on its other side.
      expect_close(got, product, 2 * gemv->tolerance());
      n += layers[l]->out();
    }
  }
}

// What is no number is read whatever the thresholds, and shows in every output; nothing else does.
TEST_F(CudaNestedGemv, NoNumberShows) {
  for (const GroupAxis axis : {GroupAxis::input, GroupAxis::output})
    for (const int64_t tokens : {1, 2}) {
      const auto layer = layer_of({300, 260, 128, axis, {0, 2, 4, 8}});
      const auto gemv = make(*layer);
      const Rule rule(layer->levels(), 1);
      MatrixBuffer<float> x = testing::random_matrix(tokens, 260, 1);
      x.row(tokens - 1)[7] = NAN;
      const TypedMatrix input(Type::f32, x), output(Type::f32, tokens, 300);
      const cuda::GemvReading reading{kFullLevel, &rule.rule};
      gemv->run({input.view()}, {&reading, 1}, {output.view()}, nullptr);
      const MatrixBuffer<float> y = output.values();
      for (int64_t t = 0; t < tokens; ++t)
        for (int64_t n = 0; n < 300; ++n) EXPECT_EQ(std::isnan(y.row(t)[n]), t == tokens - 1);
    }
}

TEST_F(CudaNestedGemv, NothingReadIsZero) {
  for (const GroupAxis axis : {GroupAxis::input, GroupAxis::output})
    for (const int64_t tokens : {1, 3}) {
      const auto layer = layer_of({300, 260, 128, axis, {0, 2, 4, 8}});
      const Rule rule(layer->levels(), 1);
      // A token that reads among others that do not.
      MatrixBuffer<float> x = MatrixBuffer<float>::zeroed(tokens, 260);
      if (tokens > 1) x.row(1)[200] = 9;
      const TypedMatrix input(Type::f32, x), output(Type::f32, tokens, 300);
      const cuda::GemvReading reading{kFullLevel, &rule.rule};
      make(*layer)->run({input.view()}, {&reading, 1}, {output.view()}, nullptr);
      const MatrixBuffer<float> y = output.values();
      for (int64_t t = 0; t < tokens; ++t)
        for (int64_t n = 0; n < 300; ++n) EXPECT_EQ(y.row(t)[n] == 0.0f, t != 1);
    }
}

TEST_F(CudaNestedGemv, RefusesWhatItCannotTake) {
  EXPECT_EQ(make(*layer_of({64, 64, 0, GroupAxis::input, {0, 2, 6}, 6})), nullptr);  // a table of 64
  EXPECT_EQ(make(*layer_of({64, 200, 40, GroupAxis::input, {0, 2, 4}})), nullptr);   // parts of a block
  EXPECT_EQ(make(*layer_of({300, 64, 32, GroupAxis::output, {0, 2, 4}})), nullptr);  // parts of a column
}

TEST_F(CudaNestedGemv, CountsWhatIsRead) {
  const auto layer = layer_of({256, 300, 128, GroupAxis::input, {0, 2, 4, 8}});
  LevelCounts counts;
  counts.channels[0] = 100, counts.channels[2] = 150, counts.channels[8] = 50;
  EXPECT_EQ(make(*layer)->bytes_read({&counts, 1}) * 8, layer->read_bits(counts).total());
  const auto turned = layer_of({256, 300, 128, GroupAxis::output, {0, 2, 4, 8}});
  EXPECT_EQ(make(*turned)->bytes_read({&counts, 1}) * 8, turned->read_bits(counts).total());
}

}  // namespace
}  // namespace grinqh
