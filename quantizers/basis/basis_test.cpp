#include <gtest/gtest.h>

#include <numeric>

#include "calib/calibrate.h"
#include "calib/transform_model.h"
#include "core/progress.h"
#include "core/rng.h"
#include "embedded_models.h"
#include "model_files.h"
#include "numbers.h"
#include "quant/model_transform.h"

namespace grinqh {
namespace {

MatrixBuffer<float> hadamard(int64_t hidden, uint64_t seed) {
  return Registry<ModelTransform>::get().make("rotate_hadamard")->plan(hidden, seed).residual_basis;
}

void expect_orthogonal(const MatrixBuffer<float>& q) {
  for (int64_t i = 0; i < q.rows(); ++i)
    for (int64_t j = 0; j < q.rows(); ++j) {
      double product = 0;
      for (int64_t k = 0; k < q.cols(); ++k)
        product += static_cast<double>(q.row(i)[k]) * static_cast<double>(q.row(j)[k]);
      ASSERT_NEAR(product, i == j ? 1.0 : 0.0, 1e-6) << i << " " << j;
    }
}

TEST(RotateHadamard, IsOrthogonalForEveryWidth) {
  for (const int64_t hidden : {1, 2, 7, 8, 12, 24, 96}) expect_orthogonal(hadamard(hidden, 5));
}

TEST(RotateHadamard, SpreadsOneChannelEvenlyWhereTheWidthIsAPowerOfTwo) {
  const MatrixBuffer<float> q = hadamard(64, 5);
  for (int64_t i = 0; i < q.size(); ++i) EXPECT_NEAR(std::abs(q.data()[i]), 0.125, 1e-6);
}

TEST(RotateHadamard, DependsOnTheSeed) {
  const MatrixBuffer<float> a = hadamard(64, 5), same = hadamard(64, 5), b = hadamard(64, 6);
  EXPECT_TRUE(std::equal(a.data(), a.data() + a.size(), same.data()));
  EXPECT_FALSE(std::equal(a.data(), a.data() + a.size(), b.data()));
}

// A probe for transforms that ask nothing.
class Silent final : public ModuleProbe {
 public:
  double error(std::span<const Matrix<const float>>) override { throw std::logic_error("asked"); }
};

TEST(RotatePca, FindsTheDirectionsOfTheResidualSitesAlone) {
  // Two residual sites with energy along (1, 1) and (1, -1), and one site inside a block that must not count.
  LayerStats first, second, inner;
  first.values["second_moment"] = {9, 9, 9, 9};
  second.values["second_moment"] = {1, -1, -1, 1};
  inner.values["second_moment"] = {1000, 0, 0, 1};
  const MatrixBuffer<float> weight = testing::random_matrix(3, 2, 1);
  Silent probe;
  const std::vector<TransformSite> block{{{{"q", weight.view()}}, true, {0, 1}, first, probe},
                                         {{{"o", weight.view()}}, false, {0, 1}, inner, probe},
                                         {{{"gate", weight.view()}}, true, {0, 1}, second, probe}};
  const auto pca = Registry<ModelTransform>::get().make("rotate_pca");
  pca->see(block);
  const MatrixBuffer<float> q = pca->plan(2, 0).residual_basis;
  const float half = std::sqrt(0.5f);
  EXPECT_NEAR(q.row(0)[0], half, 1e-6);
  EXPECT_NEAR(q.row(1)[0], half, 1e-6);
  EXPECT_NEAR(q.row(0)[1] * q.row(1)[1], -0.5, 1e-6);
}

TEST(RotatePca, EqualWeightingForgetsHowStrongASiteIs) {
  LayerStats strong, weak;
  strong.values["second_moment"] = {1000, 0, 0, 900};
  weak.values["second_moment"] = {0, 0, 0, 1};
  const MatrixBuffer<float> weight = testing::random_matrix(3, 2, 1);
  Silent probe;
  const std::vector<TransformSite> block{{{{"q", weight.view()}}, true, {0, 1}, strong, probe},
                                         {{{"gate", weight.view()}}, true, {0, 1}, weak, probe}};
  const auto strongest = [&](const Settings& settings) {
    const auto pca = Registry<ModelTransform>::get().make("rotate_pca", settings);
    pca->see(block);
    return std::abs(pca->plan(2, 0).residual_basis.row(0)[0]) > 0.5 ? 0 : 1;
  };
  EXPECT_EQ(strongest({}), 0);
  EXPECT_EQ(strongest({{"weighting", {"equal", ""}}}), 1);
}

class Basis : public ::testing::Test {
 protected:
  Basis() { Progress::set_enabled(false); }

  TransformedModel transformed(const std::vector<std::string>& names) const {
    std::vector<NamedTransform> transforms;
    for (const std::string& name : names)
      transforms.push_back({name, Registry<ModelTransform>::get().make(name)});
    return transform_model(embedded_.model, transforms, windows_, 3);
  }

  // Second moments of the normalized stream, summed over the layers that read it.
  MatrixBuffer<double> summed_moments(const Model& model) const {
    const Transformer transformer(model);
    CalibrationPlan plan;
    plan.windows = windows_;
    plan.inputs = CalibrationInputs::floating;
    plan.kept = {"second_moment"};
    const auto rtn = Registry<Quantizer>::get().make("rtn");
    const Calibrated calibrated = calibrate_and_quantize(transformer, *rtn, plan);
    auto sum = MatrixBuffer<double>::zeroed(transformer.hidden(), transformer.hidden());
    for (const BlockWeights& block : model.blocks)
      for (const LinearWeights* reader : {&block.q, &block.gate}) {
        const std::span<const float> h = calibrated.stats.at(reader->id)->at("second_moment");
        for (size_t i = 0; i < h.size(); ++i) sum.data()[i] += h[i];
      }
    return sum;
  }

  std::vector<double> energies(const Model& model) const {
    const MatrixBuffer<double> moments = summed_moments(model);
    std::vector<double> energy;
    for (int64_t i = 0; i < moments.rows(); ++i) energy.push_back(moments.row(i)[i]);
    return energy;
  }

  const testing::EmbeddedModel& embedded_ = testing::embedded_model("llama-tiny");
  const Matrix<const int32_t> windows_ = embedded_.windows(4, 64);
};

TEST_F(Basis, PcaGathersTheEnergyAndHadamardSpreadsIt) {
  const auto share_of_top_8 = [&](const std::vector<std::string>& transforms) {
    std::vector<double> energy = energies(transformed(transforms).model);
    std::ranges::sort(energy, std::greater<>());
    return std::accumulate(energy.begin(), energy.begin() + 8, 0.0) /
           std::accumulate(energy.begin(), energy.end(), 0.0);
  };
  const double identity = share_of_top_8({"fold_norms"});
  const double pca = share_of_top_8({"fold_norms", "rotate_pca"});
  const double spread = share_of_top_8({"fold_norms", "rotate_hadamard"});
  EXPECT_GT(pca, 0.4);
  EXPECT_GT(pca, 1.1 * identity);
  EXPECT_LT(spread, 0.7 * identity);
}

TEST_F(Basis, InItsPrincipalBasisTheStreamIsUncorrelated) {
  const TransformedModel model = transformed({"fold_norms", "rotate_pca"});
  const MatrixBuffer<double> moments = summed_moments(model.model);
  double total = 0, off = 0;
  for (int64_t i = 0; i < moments.rows(); ++i)
    for (int64_t j = 0; j < moments.cols(); ++j)
      (i == j ? total : off) += i == j ? moments.row(i)[j] : std::abs(moments.row(i)[j]);
  EXPECT_LT(off, 1e-3 * total);
  for (int64_t i = 1; i < moments.rows(); ++i)
    EXPECT_LE(moments.row(i)[i], moments.row(i - 1)[i - 1] * 1.001);
}

TEST_F(Basis, ARotationWithoutFoldedNormsIsRefused) {
  for (const std::string name : {"rotate_pca", "rotate_hadamard"})
    EXPECT_REFUSED(transformed({name}), "transform '" + name + "'", "norms still have weights");
  EXPECT_NO_THROW(transformed({"fold_norms", "rotate_hadamard", "rotate_pca"}));
}

}  // namespace
}  // namespace grinqh
