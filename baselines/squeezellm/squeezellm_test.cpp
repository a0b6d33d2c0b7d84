// SqueezeLLM against its objective computed on what a layer decodes to.
#include "core/registry.h"
#include "kernels/lut_planes/layout.h"
#include "model_files.h"
#include "numbers.h"
#include "quant/quantizer.h"

namespace grinqh {
namespace {

// 24 rows of 120 weights, ten of them large, and gradients that differ from weight to weight.
class SqueezeLlmQuantizer : public ::testing::Test {
 protected:
  static constexpr int64_t kOut = 24, kIn = 120;

  SqueezeLlmQuantizer() {
    for (int64_t row = 0; row < 10; ++row) weight_.row(row)[7 * row] = row % 2 ? 12.0f : -12.0f;
    for (const float g : testing::random_vector(kOut * kIn, 2))
      stats_.values["fisher_diagonal"].push_back(std::exp(2 * g));
    stats_.values["second_moment"].assign(kIn * kIn, 0.0f);
    for (size_t i = 0; i < static_cast<size_t>(kIn); ++i)
      stats_.values["second_moment"][i * kIn + i] = static_cast<float>(i % 7);
  }

  std::unique_ptr<QuantizedLinear> quantize(const Settings& settings) const {
    return Registry<Quantizer>::get().make("squeezellm", settings)->quantize({"layer", weight_, stats_});
  }
  static Settings options(int bits, const char* sensitivity, double sensitive = 0, double large = 0) {
    return {{"bits", {bits, ""}},
            {"sensitivity", {sensitivity, ""}},
            {"sensitive_outliers", {sensitive, ""}},
            {"large_outliers", {large, ""}}};
  }
  double weighted_error(const QuantizedLinear& layer, auto&& sensitivity) const {
    const MatrixBuffer<float> decoded = layer.dequantize();
    double sum = 0;
    for (int64_t row = 0; row < kOut; ++row)
      for (int64_t i = 0; i < kIn; ++i) {
        const double apart = weight_.view()(row, i) - decoded.view()(row, i);
        sum += sensitivity(row, i) * apart * apart;
      }
    return sum;
  }
  double fisher(int64_t row, int64_t i) const {
    return stats_.at("fisher_diagonal")[static_cast<size_t>(row * kIn + i)];
  }

  MatrixBuffer<float> weight_ = testing::random_matrix(kOut, kIn, 1);
  LayerStats stats_;
};

TEST_F(SqueezeLlmQuantizer, EachSensitivityHasTheLeastErrorOfItsOwn) {
  const auto by_fisher = quantize(options(3, "fisher")), by_input = quantize(options(3, "second_moment")),
             by_none = quantize(options(3, "none"));
  const auto of_fisher = [&](int64_t row, int64_t i) { return fisher(row, i); };
  const auto of_input = [](int64_t, int64_t i) { return static_cast<double>(i % 7); };
  const auto of_none = [](int64_t, int64_t) { return 1.0; };
  EXPECT_LT(weighted_error(*by_fisher, of_fisher), 0.8 * weighted_error(*by_input, of_fisher));
  EXPECT_LT(weighted_error(*by_fisher, of_fisher), 0.8 * weighted_error(*by_none, of_fisher));
  EXPECT_LT(weighted_error(*by_input, of_input), 0.95 * weighted_error(*by_none, of_input));
  EXPECT_LT(weighted_error(*by_none, of_none), 0.95 * weighted_error(*by_input, of_none));
}

TEST_F(SqueezeLlmQuantizer, ScalingTheSensitivityChangesNothing) {
  const auto once = quantize(options(4, "fisher"));
  for (float& f : stats_.values["fisher_diagonal"]) f *= 1024;
  EXPECT_EQ(copy_buffers(*quantize(options(4, "fisher"))), copy_buffers(*once));
}

TEST_F(SqueezeLlmQuantizer, OutliersAreKeptExactlyAndTheRestGains) {
  const auto dense = quantize(options(3, "fisher"));
  const auto sparse = quantize(options(3, "fisher", 0, 10.0 / (kOut * kIn)));
  const MatrixBuffer<float> decoded = sparse->dequantize();
  for (int64_t row = 0; row < 10; ++row) EXPECT_EQ(decoded.row(row)[7 * row], weight_.row(row)[7 * row]);
  const auto of_others = [&](int64_t row, int64_t i) {
    return row < 10 && i == 7 * row ? 0.0 : fisher(row, i);
  };
  EXPECT_LT(weighted_error(*sparse, of_others), weighted_error(*dense, of_others));
  // Ten values of 16 bits and columns of as many, and where each row's begin.
  EXPECT_EQ(sparse->stored_bits().total() - dense->stored_bits().total(), 10 * 32 + (kOut + 1) * 32);
}

TEST_F(SqueezeLlmQuantizer, BitsByHand) {
  const auto layer = quantize(options(4, "none"));
  EXPECT_THAT(layer->levels(), ::testing::ElementsAre(4));
  // Rows of 120 codes fill four words of a plane; 16 entries of 16 bits a row.
  EXPECT_EQ(layer->stored_bits().total(), kOut * (4 * 128 + 16 * 16));
  EXPECT_EQ(layer->read_bits(LevelCounts::uniform(4, kIn)).total(), layer->stored_bits().total());
}

TEST_F(SqueezeLlmQuantizer, OptionsOutOfRangeAreRefused) {
  const auto make = [](const char* key, const Json& value) {
    return Registry<Quantizer>::get().make("squeezellm", {{key, {value, "file.toml:4"}}});
  };
  EXPECT_REFUSED(make("bits", 9), "file.toml:4", "bits = 9", "2 to 8");
  EXPECT_REFUSED(make("sensitivity", "hessian"), "file.toml:4", "hessian", "second_moment");
  EXPECT_REFUSED(make("large_outliers", 0.6), "file.toml:4", "0.6");
}

}  // namespace
}  // namespace grinqh
