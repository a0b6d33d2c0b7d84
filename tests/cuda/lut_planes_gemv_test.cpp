// Decoding products of layout "lut_planes" against float64 on the dequantized weights, and against
// themselves.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "core/error.h"
#include "core/half.h"
#include "cuda/gemv.h"
#include "cuda/memory.h"
#include "gemv_reference.h"
#include "gpu.h"
#include "kernels/lut_planes/layout.h"
#include "numbers.h"

namespace grinqh {
namespace {

using Layer = std::unique_ptr<LutPlanesLinear>;

// Random codes and tables; every `apart`-th weight an outlier, or none with 0.
Layer layer_of(int64_t out, int64_t in, std::vector<Level> levels, int64_t apart = 0) {
  const LutPlanesShape shape{out, in, std::move(levels)};
  Rng rng(static_cast<uint64_t>(out * 131 + in + shape.planes()));
  MatrixBuffer<uint8_t> codes(out, in);
  for (int64_t i = 0; i < codes.size(); ++i)
    codes.data()[i] = static_cast<uint8_t>(rng.below(1u << shape.planes()));
  std::vector<uint16_t> tables(static_cast<size_t>(shape.table_offset(kFullLevel)));
  for (uint16_t& entry : tables) entry = to_half(static_cast<float>(rng.uniform() * 0.2 - 0.1));
  MatrixBuffer<float> weight(out, in);
  Outliers outliers;
  if (apart > 0) outliers.row_begin.push_back(0);
  for (int64_t row = 0; apart > 0 && row < out; ++row) {
    for (int64_t i = 0; i < in; ++i)
      if ((row * in + i) % apart == 0) {
        weight.row(row)[i] = static_cast<float>(rng.uniform() - 0.5);
        outliers.columns.push_back(static_cast<uint32_t>(i));
      }
    outliers.row_begin.push_back(static_cast<uint32_t>(outliers.columns.size()));
  }
  return std::make_unique<LutPlanesLinear>("layer", shape, codes, std::move(tables), outliers, weight);
}

// Normal, and a few channels that tower above the others.
std::vector<float> inputs(int64_t count, uint64_t seed) {
  std::vector<float> x = testing::random_vector(count, seed);
  for (size_t i = 3; i < x.size(); i += 97) x[i] *= 40;
  return x;
}

std::vector<float> run(cuda::Gemv& gemv, const std::vector<float>& x, int64_t tokens,
                       const std::vector<cuda::GemvReading>& readings) {
  return testing::run_gemv(gemv, x, tokens, readings);
}

class CudaLutPlanesGemv : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!testing::has_gpu()) GTEST_SKIP() << "no GPU here";
    kernels_ = cuda::gemv_kernels("lut_planes");
    ASSERT_FALSE(kernels_.empty());
    const Layer layer = layer_of(16, 32, {2});
    if (kernels_.front().make(std::vector<const QuantizedLinear*>{layer.get()}, nullptr) == nullptr)
      GTEST_SKIP() << "no kernel for this GPU";
  }
  std::unique_ptr<cuda::Gemv> make(const std::vector<const QuantizedLinear*>& layers) const {
    return kernels_.front().make(layers, nullptr);
  }

  std::vector<cuda::GemvKernel> kernels_;
};

TEST_F(CudaLutPlanesGemv, EveryLevelOfEveryShapeAgainstTheDequantizedWeights) {
  struct Case {
    int64_t out, in, tokens, apart;
    std::vector<Level> levels;
  };
  for (const Case& c :
       {Case{256, 1024, 1, 0, {2, 3, 4}}, Case{72, 1300, 1, 50, {2, 3, 4}},
        Case{33, 520, 2, 0, {3, 4, 5, 6, 7, 8}}, Case{20, 40, 8, 7, {1, 2}}, Case{41, 5000, 1, 0, {8}},
        Case{40, 512, 5, 90, {0, 4}}, Case{2500, 96, 4, 0, {2}}, Case{24, 4096, 8, 210, {3}},
        Case{5000, 256, 1, 33, {5, 6}}, Case{19, 130, 7, 0, {7}}}) {
    const Layer layer = layer_of(c.out, c.in, c.levels, c.apart);
    const auto gemv = make({layer.get()});
    ASSERT_NE(gemv, nullptr);
    const int64_t stride = (c.in + 3) / 4 * 4;
    const std::vector<float> x = inputs(c.tokens * stride, 5);
    const cuda::Array<uint8_t> on_device(16);
    for (const Level level : c.levels) {
      if (level == 0) continue;
      SCOPED_TRACE(
          fmt::format("{} x {}, level {}, {} tokens, outliers {}", c.out, c.in, level, c.tokens, c.apart));
      const std::vector<float> y = run(*gemv, x, c.tokens, {{level}});
      // All inputs of a token are integers of one step, so that small ones lose more than by groups.
      for (int64_t token = 0; token < c.tokens; ++token)
        EXPECT_LE(testing::gemv_error(*layer, level, x, stride, y, c.out, 0, token), 0.2 * gemv->tolerance());
      const auto other = gemv->clone(nullptr);
      EXPECT_EQ(run(*other, x, c.tokens, {{level}}), y);
      cuda::to_device(&level, on_device.data(), 1, nullptr);
      EXPECT_EQ(run(*gemv, x, c.tokens, {{kFullLevel, nullptr, on_device.data()}}), y);
      // What a call must read is what the layout says, but for rows that fill the last sixteen up.
      const LevelCounts counts[] = {LevelCounts::uniform(level, c.in)};
      EXPECT_GE(gemv->bytes_read(counts) * 8, layer->read_bits(counts[0]).total());
    }
    EXPECT_EQ(run(*gemv, x, c.tokens, {}), run(*gemv, x, c.tokens, {{c.levels.back()}}));
  }
}

TEST_F(CudaLutPlanesGemv, BytesReadAreTheLayoutsWherePartsFill) {
  const Layer layer = layer_of(64, 2048, {2, 3, 4});
  const auto gemv = make({layer.get()});
  for (const Level level : layer->levels()) {
    const LevelCounts counts[] = {LevelCounts::uniform(level, 2048)};
    EXPECT_EQ(gemv->bytes_read(counts) * 8, layer->read_bits(counts[0]).total());
  }
  EXPECT_EQ(gemv->bytes() * 8, layer->stored_bits().total());
}

TEST_F(CudaLutPlanesGemv, OneGraphServesAllLevels) {
  const Layer layer = layer_of(48, 700, {2, 3, 4}, 41);
  const auto gemv = make({layer.get()});
  const std::vector<float> x = inputs(700, 3);
  const auto input = testing::device_array(x);
  const cuda::Array<float> output(48);
  const cuda::Array<uint8_t> level(16);
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t captured;
  ASSERT_EQ(cudaStreamCreate(&stream), cudaSuccess);
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), cudaSuccess);
  const cuda::GemvReading readings[] = {{kFullLevel, nullptr, level.data()}};
  for (int twice = 0; twice < 2; ++twice)
    gemv->run({{input.data(), 1, 700, 700, cuda::Type::f32}}, readings,
              {{output.data(), 1, 48, 48, cuda::Type::f32}}, stream);
  ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  ASSERT_EQ(cudaGraphInstantiate(&captured, graph, 0), cudaSuccess);
  // Not stored: 1 means the lowest, 7 and 255 the highest.
  const std::pair<Level, Level> asked_and_read[] = {{3, 3}, {2, 2}, {4, 4}, {1, 2}, {7, 4}, {255, 4}};
  for (const auto& [asked, read] : asked_and_read) {
    cuda::to_device(&asked, level.data(), 1, stream);
    ASSERT_EQ(cudaGraphLaunch(captured, stream), cudaSuccess);
    std::vector<float> y(48);
    cuda::to_host(output.data(), y.data(), 48 * 4, stream);
    EXPECT_EQ(y, run(*gemv, x, 1, {{read}})) << int{asked};
  }
  cudaGraphExecDestroy(captured);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
}

TEST_F(CudaLutPlanesGemv, RefusesLevelsThatAreNotStoredAndGradedChannels) {
  const Layer layer = layer_of(16, 64, {2, 4});
  const auto gemv = make({layer.get()});
  const std::vector<float> x = inputs(64, 1);
  EXPECT_THROW(run(*gemv, x, 1, {{3}}), BadInput);
  EXPECT_THROW(run(*gemv, x, 1, {{0}}), BadInput);
  const cuda::GradingRule rule{};
  EXPECT_THROW(run(*gemv, x, 1, {{kFullLevel, &rule}}), BadInput);
}

TEST_F(CudaLutPlanesGemv, WhatIsNotFiniteStaysSo) {
  const Layer layer = layer_of(16, 600, {2});
  const auto gemv = make({layer.get()});
  for (const float bad : {std::nanf(""), INFINITY}) {
    std::vector<float> x = inputs(600, 1);
    x[555] = bad;
    for (const float y : run(*gemv, x, 1, {})) EXPECT_FALSE(std::isfinite(y));
  }
  for (const float y : run(*gemv, std::vector<float>(600, 0.0f), 1, {})) EXPECT_EQ(y, 0.0f);
}

// Layers at their own levels.
TEST_F(CudaLutPlanesGemv, SeveralLayersAtOnceFromANormalizedOrGatedInput) {
  constexpr int64_t kIn = 1160, kTokens = 3, kRows[] = {40, 24, 9};
  const Layer layers[] = {layer_of(kRows[0], kIn, {2, 3}), layer_of(kRows[1], kIn, {3, 4}, 60),
                          layer_of(kRows[2], kIn, {3})};
  const std::vector<std::vector<Level>> uses = {{3, 3, 3}, {2, 4, 3}};
  const int64_t out = kRows[0] + kRows[1] + kRows[2];
  const auto gemv = make({layers[0].get(), layers[1].get(), layers[2].get()});
  ASSERT_NE(gemv, nullptr);
  ASSERT_EQ(gemv->out(), out);
  const std::vector<float> x = inputs(kTokens * 2 * kIn, 6);
  const QuantizedLinear* listed[] = {layers[0].get(), layers[1].get(), layers[2].get()};
  for (const std::vector<Level>& levels : uses)
    testing::expect_formed_products(*gemv, listed, levels, x, kTokens, 0.25 * gemv->tolerance());
}

}  // namespace
}  // namespace grinqh
