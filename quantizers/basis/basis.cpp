// Other bases of the residual stream: an orthogonal matrix applied to the embedding, the head and all linear
// layers that read or write the stream changes nothing in float, once the norms' weights are folded into the
// layers (RMSNorm commutes with rotations; Ashkboos et al., SliceGPT, 2401.15024). Where the basis gathers
// the energy in few channels, precision graded by channel has less to read; where it spreads the energy, one
// precision for all loses less (QuaRot, 2404.00456).
#include <bit>
#include <cmath>
#include <numeric>

#include "core/rng.h"
#include "core/symmetric_eigen.h"
#include "quant/model_transform.h"

namespace grinqh {
namespace {

class FoldNorms final : public ModelTransform {
 public:
  struct Options {
    template <class V>
    void fields(V&) {}
  };
  explicit FoldNorms(Options) {}

  TransformPlan plan(int64_t, uint64_t) override {
    TransformPlan plan;
    plan.fold_norms = true;
    return plan;
  }
};

// [n, n] with orthonormal rows: Gaussian vectors, each made orthogonal to those before it (twice, so that
// rounding leaves nothing), which is a uniform draw of all orthogonal matrices.
MatrixBuffer<double> random_orthogonal(int64_t n, Rng& rng) {
  MatrixBuffer<double> q(n, n);
  for (int64_t i = 0; i < n; ++i) {
    double* row = q.row(i);
    for (int64_t j = 0; j < n; ++j) row[j] = rng.normal();
    for (int pass = 0; pass < 2; ++pass) {
      for (int64_t k = 0; k < i; ++k) {
        const double along = std::inner_product(row, row + n, q.row(k), 0.0);
        for (int64_t j = 0; j < n; ++j) row[j] -= along * q.row(k)[j];
      }
      const double length = std::sqrt(std::inner_product(row, row + n, row, 0.0));
      for (int64_t j = 0; j < n; ++j) row[j] /= length;
    }
  }
  return q;
}

// Q = diag(signs) (R x H): signs at random, R a random orthogonal matrix of the odd part of the width, H the
// Hadamard matrix (Sylvester) of the power of two in it, x the Kronecker product.
class RotateHadamard final : public ModelTransform {
 public:
  struct Options {
    template <class V>
    void fields(V&) {}
  };
  explicit RotateHadamard(Options) {}

  TransformPlan plan(int64_t hidden, uint64_t seed) override {
    const int64_t power = hidden & -hidden, odd = hidden / power;
    Rng rng(seed);
    const MatrixBuffer<double> r = random_orthogonal(odd, rng);
    TransformPlan plan;
    plan.residual_basis = MatrixBuffer<float>(hidden, hidden);
    for (int64_t i = 0; i < hidden; ++i) {
      const double size = (rng.bits() & 1 ? 1.0 : -1.0) / std::sqrt(static_cast<double>(power));
      for (int64_t j = 0; j < hidden; ++j) {
        const bool odd_bits = std::popcount(static_cast<uint64_t>((i % power) & (j % power))) & 1;
        plan.residual_basis.row(i)[j] =
            static_cast<float>((odd_bits ? -size : size) * r.row(i / power)[j / power]);
      }
    }
    return plan;
  }
};

// The principal directions of what the layers that read the stream see: eigenvectors of the sum of their
// inputs' second moments, the strongest first.
class RotatePca final : public ModelTransform {
 public:
  struct Options {
    std::string weighting = "energy";
    template <class V>
    void fields(V& v) {
      v("weighting", weighting, OneOf{{"energy", "equal"}},
        "energy: second moments are added as they are; equal: each divided by its trace first");
    }
  };
  explicit RotatePca(Options options) : options_(std::move(options)) {}

  CollectorNames needs() const override { return {kSecondMoment}; }

  void see(std::span<const TransformSite> block) override {
    for (const TransformSite& site : block) {
      if (!site.residual) continue;
      const std::span<const float> moments = site.stats.at(kSecondMoment);
      const int64_t hidden = site.layers.front().weight.cols;
      if (sum_.size() == 0) sum_ = MatrixBuffer<double>::zeroed(hidden, hidden);
      double trace = 0;
      for (int64_t i = 0; i < hidden; ++i)
        trace += static_cast<double>(moments[static_cast<size_t>(i * (hidden + 1))]);
      const double scale = options_.weighting == "equal" && trace > 0 ? 1.0 / trace : 1.0;
      for (int64_t i = 0; i < sum_.size(); ++i)
        sum_.data()[i] += scale * static_cast<double>(moments[static_cast<size_t>(i)]);
    }
  }

  TransformPlan plan(int64_t hidden, uint64_t) override {
    const SymmetricEigen eigen = symmetric_eigen(sum_.view());
    TransformPlan plan;
    plan.residual_basis = MatrixBuffer<float>(hidden, hidden);
    for (int64_t i = 0; i < hidden; ++i)
      for (int64_t j = 0; j < hidden; ++j)
        plan.residual_basis.row(i)[j] = static_cast<float>(eigen.vectors.row(j)[i]);
    return plan;
  }

 private:
  static constexpr const char* kSecondMoment = "second_moment";
  Options options_;
  MatrixBuffer<double> sum_;  // [hidden, hidden]
};

const Register<ModelTransform, FoldNorms> fold_norms{
    "fold_norms", "the norms' weights move into the layers that read them; rotations need it before them"};
const Register<ModelTransform, RotateHadamard> rotate_hadamard{
    "rotate_hadamard",
    "a random Hadamard basis of the residual stream: spreads its energy over all channels"};
const Register<ModelTransform, RotatePca> rotate_pca{
    "rotate_pca", "the principal directions of the residual stream: gather its energy in the first channels"};

}  // namespace
}  // namespace grinqh
