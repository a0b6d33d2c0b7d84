// Products that skip channels, against float64 on what the layout's dequantize_rows() says of the same
// levels.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "core/half.h"
#include "cuda/gemv.h"
#include "cuda/memory.h"
#include "gpu.h"
#include "kernels/dense/layout.h"
#include "kernels/group_affine/layout.h"
#include "numbers.h"

namespace grinqh {
namespace {

constexpr const char* kName = "thresholded_channels";

std::unique_ptr<QuantizedLinear> dense_layer(int64_t out, int64_t in, DType dtype) {
  Rng rng(static_cast<uint64_t>(out + in));
  std::vector<uint16_t> weights;
  for (int64_t i = 0; i < out * in; ++i) {
    const auto value = static_cast<float>(rng.normal());
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    weights.push_back(dtype == DType::f16 ? to_half(value) : static_cast<uint16_t>(bits >> 16));
  }
  return std::make_unique<DenseLinear>(DenseShape{out, in, dtype}, weights);
}

// zeros: 0 integers, 1 none, 2 real
std::unique_ptr<QuantizedLinear> codes_layer(int64_t out, int64_t in, int64_t group, int zeros,
                                             bool columns) {
  GroupAffineShape shape{out, in, 8, group};
  shape.symmetric = zeros == 1;
  shape.real_zeros = zeros == 2;
  shape.column_scales = columns;
  Rng rng(static_cast<uint64_t>(out * 3 + in));
  MatrixBuffer<uint8_t> codes(out, in), integers(out, shape.groups());
  MatrixBuffer<uint16_t> scales(out, shape.groups()), reals(out, shape.groups());
  for (int64_t i = 0; i < codes.size(); ++i) codes.data()[i] = static_cast<uint8_t>(rng.below(256));
  for (int64_t i = 0; i < scales.size(); ++i) {
    integers.data()[i] = static_cast<uint8_t>(rng.below(256));
    reals.data()[i] = to_half(static_cast<float>(255 * rng.uniform()));
    scales.data()[i] = to_half(static_cast<float>(0.01 + 0.1 * rng.uniform()));
  }
  std::vector<uint16_t> column_scales;
  for (int64_t i = 0; i < (columns ? in : 0); ++i)
    column_scales.push_back(to_half(static_cast<float>(0.5 + rng.uniform())));
  if (shape.real_zeros)
    return std::make_unique<GroupAffineLinear>(shape, codes, scales, reals.view(), column_scales);
  return std::make_unique<GroupAffineLinear>(shape, codes, scales, integers.view(), column_scales);
}

std::unique_ptr<cuda::Gemv> gemv_of(const QuantizedLinear& layer) {
  const std::vector<const QuantizedLinear*> layers{&layer};
  for (const cuda::GemvKernel& kernel : cuda::gemv_kernels(layer.layout()))
    if (kernel.name == kName) return kernel.make(layers, nullptr);
  return nullptr;
}

cuda::Array<float> uploaded(const std::vector<float>& host) {
  cuda::Array<float> device(std::ssize(host));
  cuda::to_device(host.data(), device.data(), std::ssize(host) * 4, nullptr);
  return device;
}

// thresholds: [in] or [1]; empty: every channel is read.
void compare(const QuantizedLinear& layer, int64_t tokens, const std::vector<float>& thresholds) {
  const auto gemv = gemv_of(layer);
  if (gemv == nullptr) GTEST_SKIP() << "no kernel for this GPU";
  const int64_t in = layer.in(), out = layer.out(), stride = (in + 3) / 4 * 4;
  std::vector<float> x = testing::random_vector(tokens * stride, 1);
  for (size_t i = 5; i < x.size(); i += 61) x[i] *= 30;
  const auto device_x = uploaded(x), device_thresholds = uploaded(thresholds);
  const Level full = layer.full_level();
  cuda::GradingRule rule{device_thresholds.data(), thresholds.size() == 1, {0, full}, 2, -1};
  const cuda::GemvReading reading{full, thresholds.empty() ? nullptr : &rule};
  const auto run = [&](cuda::Gemv& product) {
    std::vector<float> y(static_cast<size_t>(tokens * out), std::nanf(""));
    const auto device_y = uploaded(y);
    product.run({{device_x.data(), tokens, in, stride, cuda::Type::f32}}, {&reading, 1},
                {{device_y.data(), tokens, out, out, cuda::Type::f32}}, nullptr);
    cuda::to_host(device_y.data(), y.data(), std::ssize(y) * 4, nullptr);
    return y;
  };
  const std::vector<float> y = run(*gemv);
  for (int64_t token = 0; token < tokens; ++token) {
    std::vector<Level> levels(static_cast<size_t>(in), full);
    for (int64_t i = 0; i < (thresholds.empty() ? 0 : in); ++i)
      if (std::fabs(x[static_cast<size_t>(token * stride + i)]) <=
          thresholds[thresholds.size() == 1 ? 0 : static_cast<size_t>(i)])
        levels[static_cast<size_t>(i)] = 0;
    // A layer that stores no level 0 skips by what is not added up.
    const MatrixBuffer<float> w = layer.dequantize();
    double difference = 0, norm = 0;
    for (int64_t row = 0; row < out; ++row) {
      double sum = 0;
      for (int64_t i = 0; i < in; ++i)
        if (levels[static_cast<size_t>(i)] != 0)
          sum += double{w.view()(row, i)} * x[static_cast<size_t>(token * stride + i)];
      difference += std::pow(sum - y[static_cast<size_t>(token * out + row)], 2);
      norm += sum * sum;
    }
    EXPECT_LE(std::sqrt(difference), 2e-5 * std::sqrt(norm)) << "token " << token;
  }
  const auto copy = gemv->clone(nullptr);
  for (int again = 0; again < 2; ++again) {  // the count of arrivals is left as it was found
    const std::vector<float> same = run(again == 0 ? *gemv : *copy);
    EXPECT_EQ(std::memcmp(y.data(), same.data(), y.size() * sizeof(float)), 0);
  }
}

std::vector<float> per_channel(int64_t in) {
  std::vector<float> thresholds = testing::random_vector(in, 2);
  for (float& t : thresholds) t = std::fabs(t);
  return thresholds;
}

TEST(CudaChannelGemv, DenseLayers) {
  if (!testing::has_gpu()) GTEST_SKIP() << "no GPU here";
  compare(*dense_layer(300, 1000, DType::bf16), 1, {0.6f});
  compare(*dense_layer(37, 29, DType::f16), 2, {0.6f});
  compare(*dense_layer(1000, 520, DType::f16), 3, per_channel(520));
  compare(*dense_layer(64, 3000, DType::bf16), 8, {1.5f});
  compare(*dense_layer(258, 264, DType::bf16), 5, {});
  compare(*dense_layer(16, 64, DType::f16), 1, {1e9f});  // nothing is read
}

TEST(CudaChannelGemv, CodesOfEightBits) {
  if (!testing::has_gpu()) GTEST_SKIP() << "no GPU here";
  compare(*codes_layer(300, 1000, 128, 0, false), 1, {0.6f});
  compare(*codes_layer(41, 260, 32, 2, true), 2, per_channel(260));
  compare(*codes_layer(520, 130, 0, 1, false), 4, {0.3f});
  compare(*codes_layer(17, 4096, 64, 0, true), 7, {1.0f});
  compare(*codes_layer(40, 30, 0, 0, false), 1, {});
}

// Rows read everything: where channels are graded, another kernel must be found.
TEST(CudaChannelGemv, GradedLayersGetAKernelThatGrades) {
  if (!testing::has_gpu()) GTEST_SKIP() << "no GPU here";
  const auto layer = dense_layer(32, 96, DType::bf16);
  const std::vector<const QuantizedLinear*> layers{layer.get()};
  cuda::GemvStore store;
  const auto whole = store.kernel_of(layers, false, nullptr), graded = store.kernel_of(layers, true, nullptr);
  if (whole == nullptr) GTEST_SKIP() << "no kernel for this GPU";
  EXPECT_NE(whole, graded);
  EXPECT_EQ(store.kernel_of(layers, true, nullptr), graded);
  LevelCounts counts;
  counts.channels[0] = 96;
  EXPECT_EQ(graded->bytes_read({&counts, 1}), 0);
  EXPECT_EQ(whole->bytes_read({&counts, 1}), 32 * 96 * 2);
}

TEST(CudaChannelGemv, GradedCodesGetAKernelThatGrades) {
  if (!testing::has_gpu()) GTEST_SKIP() << "no GPU here";
  const auto layer = codes_layer(32, 96, 32, 0, false);
  const std::vector<const QuantizedLinear*> layers{layer.get()};
  cuda::GemvStore store;
  const auto whole = store.kernel_of(layers, false, nullptr), graded = store.kernel_of(layers, true, nullptr);
  if (whole == nullptr) GTEST_SKIP() << "no kernel for this GPU";
  EXPECT_NE(whole, graded);
  LevelCounts counts;
  counts.channels[0] = 96;
  EXPECT_LT(graded->bytes_read({&counts, 1}), 32 * 96);
  EXPECT_GE(whole->bytes_read({&counts, 1}), 32 * 96);
}

TEST(CudaChannelGemv, OnlyWhatIsReadIsCounted) {
  if (!testing::has_gpu()) GTEST_SKIP() << "no GPU here";
  const auto layer = dense_layer(32, 96, DType::bf16);
  const auto gemv = gemv_of(*layer);
  if (gemv == nullptr) GTEST_SKIP() << "no kernel for this GPU";
  LevelCounts counts;
  counts.channels[0] = 90;
  counts.channels[16] = 6;
  EXPECT_EQ(gemv->bytes_read({&counts, 1}), 6 * 32 * 2);
  EXPECT_EQ(gemv->bytes_read({&counts, 1}) * 8, layer->read_bits(counts).total());
}

}  // namespace
}  // namespace grinqh
