#include <cmath>

#include "core/dtype.h"
#include "core/registry.h"
#include "model_files.h"
#include "numbers.h"
#include "quant/quantizer.h"

namespace grinqh {
namespace {

std::unique_ptr<QuantizedLinear> quantize(Matrix<const float> weight, const std::string& dtype) {
  const LayerStats nothing;
  return Registry<Quantizer>::get()
      .make("dense", {{"dtype", {dtype, "file.toml:4"}}})
      ->quantize({"model.layers.3.mlp.up_proj", weight, nothing});
}

// Distance of neighbouring values of a type with `bits` of fraction around |weight|, normal numbers.
double spacing(float weight, int bits) { return std::ldexp(1.0, std::ilogb(weight) - bits); }

TEST(Dense, RoundsToTheNearest) {
  const MatrixBuffer<float> weight = testing::random_matrix(19, 23, 1, 0.05);
  for (const auto& [dtype, bits] : {std::pair{"float16", 10}, {"bfloat16", 7}}) {
    const MatrixBuffer<float> decoded = quantize(weight, dtype)->dequantize();
    for (int64_t i = 0; i < weight.size(); ++i) {
      const float w = weight.data()[i];
      if (std::abs(w) < 1e-4f) continue;  // subnormal in float16
      const double step = spacing(w, bits);
      EXPECT_LE(std::abs(static_cast<double>(decoded.data()[i]) - static_cast<double>(w)), step / 2) << dtype;
      EXPECT_EQ(std::remainder(static_cast<double>(decoded.data()[i]), step), 0.0) << dtype;
    }
  }
}

TEST(Dense, KeepsWhatTheTypeHolds) {
  MatrixBuffer<float> weight = testing::random_matrix(8, 16, 2);
  for (const auto& [dtype, type] : {std::pair{"float16", DType::f16}, {"bfloat16", DType::bf16}}) {
    for (int64_t i = 0; i < weight.size(); ++i) weight.data()[i] = rounded_to(type, weight.data()[i]);
    EXPECT_EQ(testing::relative_error(quantize(weight, dtype)->dequantize(), weight), 0.0) << dtype;
  }
}

TEST(Dense, CountsSixteenBitsAWeight) {
  const MatrixBuffer<float> weight = testing::random_matrix(5, 7, 3);
  const auto layer = quantize(weight, "bfloat16");
  EXPECT_EQ(layer->stored_bits().total(), 16 * 5 * 7);
  EXPECT_EQ(layer->read_bits(LevelCounts::uniform(16, 7)).total(), 16 * 5 * 7);
}

TEST(Dense, RefusesWhatDoesNotFit) {
  MatrixBuffer<float> weight = testing::random_matrix(4, 4, 4);
  weight.row(2)[1] = -70000.0f;
  EXPECT_REFUSED(quantize(weight, "float16"), "model.layers.3.mlp.up_proj", "-70000", "F16");
  EXPECT_EQ(quantize(weight, "bfloat16")->dequantize().row(2)[1], -70144.0f);  // 137 * 2^9
  weight.row(2)[1] = HUGE_VALF;
  EXPECT_REFUSED(quantize(weight, "bfloat16"), "model.layers.3.mlp.up_proj", "inf", "BF16");
  EXPECT_REFUSED(quantize(weight, "int8"), "file.toml:4", "'int8'", "float16", "bfloat16");
}

}  // namespace
}  // namespace grinqh
