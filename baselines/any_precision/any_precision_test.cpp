// Any-Precision LLM: one layer for all widths against layers of each width by themselves.
#include "core/registry.h"
#include "kernels/lut_planes/layout.h"
#include "model_files.h"
#include "numbers.h"
#include "quant/quantizer.h"

namespace grinqh {
namespace {

class AnyPrecisionQuantizer : public ::testing::Test {
 protected:
  static constexpr int64_t kOut = 12, kIn = 512;

  AnyPrecisionQuantizer() {
    for (const float g : testing::random_vector(kOut * kIn, 2))
      stats_.values["fisher_diagonal"].push_back(std::exp(2 * g));
  }

  std::unique_ptr<QuantizedLinear> quantize(const char* quantizer, const Settings& settings) const {
    return Registry<Quantizer>::get().make(quantizer, settings)->quantize({"layer", weight_, stats_});
  }
  double error(const MatrixBuffer<float>& decoded) const {
    double sum = 0;
    for (int64_t i = 0; i < weight_.size(); ++i) {
      const double apart = weight_.data()[i] - decoded.data()[i];
      sum += stats_.at("fisher_diagonal")[static_cast<size_t>(i)] * apart * apart;
    }
    return sum;
  }

  MatrixBuffer<float> weight_ = testing::random_matrix(kOut, kIn, 1);
  LayerStats stats_;
};

TEST_F(AnyPrecisionQuantizer, OffersEveryLevelFromSeedToParent) {
  EXPECT_THAT(quantize("any_precision", {})->levels(), ::testing::ElementsAre(3, 4, 5, 6, 7, 8));
  EXPECT_THAT(quantize("any_precision", {{"seed", {2, ""}}, {"parent", {4, ""}}})->levels(),
              ::testing::ElementsAre(2, 3, 4));
}

// What a level b reads is, bit for bit, what a layer of parent b stores: its planes and its table.
TEST_F(AnyPrecisionQuantizer, ALevelIsAPrefixOfTheParent) {
  const auto whole = quantize("any_precision", {});
  const Buffers all = copy_buffers(*whole);
  for (int parent = 3; parent < 8; ++parent) {
    const auto lower = quantize("any_precision", {{"parent", {parent, ""}}});
    const Buffers part = copy_buffers(*lower);
    for (const char* name : {"planes", "tables"}) {
      ASSERT_LT(part.at(name).size(), all.at(name).size());
      EXPECT_TRUE(std::equal(part.at(name).begin(), part.at(name).end(), all.at(name).begin()))
          << name << parent;
    }
    EXPECT_EQ(testing::relative_error(lower->dequantize(), whole->dequantize(static_cast<Level>(parent))),
              0.0);
  }
}

TEST_F(AnyPrecisionQuantizer, TheSeedIsOptimalAndEveryFurtherBitPaysLittleForBeingNested) {
  const auto nested = quantize("any_precision", {{"parent", {5, ""}}});
  double last = HUGE_VAL;
  for (int bits = 3; bits <= 5; ++bits) {
    const auto alone = quantize("squeezellm", {{"bits", {bits, ""}}});
    const double least = error(alone->dequantize());
    const double found = error(nested->dequantize(static_cast<Level>(bits)));
    if (bits == 3) {
      EXPECT_EQ(found, least);
    } else {
      EXPECT_GT(found, least) << bits;
      // Half a bit more alone would divide the error by two.
      EXPECT_LT(found, 2 * least) << bits;
      EXPECT_LT(found, 0.4 * last) << bits;
    }
    last = found;
  }
}

TEST_F(AnyPrecisionQuantizer, BitsByHand) {
  const auto layer = quantize("any_precision", {{"large_outliers", {0.01, ""}}});
  const auto outliers = static_cast<int64_t>(std::llround(0.01 * kOut * kIn));
  const int64_t sparse = outliers * (16 + 16) + (kOut + 1) * 32;
  for (int64_t bits = 3; bits <= 8; ++bits)
    EXPECT_EQ(layer->read_bits(LevelCounts::uniform(static_cast<Level>(bits), kIn)).total(),
              kOut * (bits * kIn + 16 * (1 << bits)) + sparse);
  EXPECT_EQ(layer->stored_bits().total(), kOut * (8 * kIn + 16 * (8 + 16 + 32 + 64 + 128 + 256)) + sparse);
}

TEST_F(AnyPrecisionQuantizer, ASeedBeyondTheParentIsRefused) {
  EXPECT_REFUSED(Registry<Quantizer>::get().make("any_precision",
                                                 {{"seed", {5, "f.toml:2"}}, {"parent", {4, "f.toml:3"}}}),
                 "f.toml:", "seed = 5", "parent = 4");
}

}  // namespace
}  // namespace grinqh
