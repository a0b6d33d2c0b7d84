// A basis of the residual stream learned for graded precision: the orthogonal matrix in which the sampled
// tokens cost least, a channel costing what the best of its levels costs. The principal directions are where
// the descent starts; they would be where it ends if the stream were Gaussian and every channel were read.
#include <array>
#include <cmath>

#include "core/error.h"
#include "core/gemm.h"
#include "core/parallel.h"
#include "core/symmetric_eigen.h"
#include "quant/model_transform.h"

namespace grinqh {
namespace {

constexpr const char* kInputs = "sampled_inputs";
constexpr const char* kGradient = "output_gradient";

// What reading a weight at b bits leaves of its squared error at 0 bits: nested codes with fitted centroids,
// groups of 128 Gaussian weights (simulated).
constexpr std::array<double, 9> kRelativeError{1.0, .379, .132, .0347, .0087, .0022, .0005, .00013, .00003};

// Sampled inputs of the layers that share one, and what an error there costs.
struct Sample {
  MatrixBuffer<float> x;  // [tokens, hidden], scaled so that a channel skipped costs its square
  double bit_price = 0;   // rows that one more bit of a channel is read in
};

// Cost of all samples in a basis, per token, and its derivative.
class GradedCost {
 public:
  GradedCost(std::vector<Sample> samples, int64_t hidden) : samples_(std::move(samples)), hidden_(hidden) {}

  int64_t hidden() const { return hidden_; }

  // Second moments over all samples. [hidden, hidden]
  MatrixBuffer<double> moments() const {
    auto sum = MatrixBuffer<double>::zeroed(hidden_, hidden_);
    for (const Sample& sample : samples_) add_gram(sample.x, sum);
    return sum;
  }

  // The price of a bit at which channels read `bits` on the average, in this basis.
  void set_price(const MatrixBuffer<float>& basis, double bits) {
    double low = -100, high = 100;  // of its logarithm
    std::vector<MatrixBuffer<float>> z;
    for (const Sample& sample : samples_) z.push_back(project(sample, basis));
    for (int step = 0; step < 40; ++step) {
      price_ = std::exp2(0.5 * (low + high));
      double read = 0, weights = 0;
      for (size_t s = 0; s < samples_.size(); ++s) {
        int64_t sum = 0;
        for (int64_t i = 0; i < z[s].size(); ++i) sum += best_level(square(z[s].data()[i]), samples_[s]);
        read += samples_[s].bit_price * static_cast<double>(sum) / static_cast<double>(z[s].rows());
        weights += samples_[s].bit_price * static_cast<double>(hidden_);
      }
      (read > bits * weights ? low : high) = std::log2(price_);
    }
  }

  // derivative: [hidden, hidden] with respect to the basis, or null.
  double operator()(const MatrixBuffer<float>& basis, MatrixBuffer<float>* derivative) const {
    if (derivative) *derivative = MatrixBuffer<float>::zeroed(hidden_, hidden_);
    double cost = 0;
    for (const Sample& sample : samples_) {
      MatrixBuffer<float> z = project(sample, basis);
      const double share = 1.0 / static_cast<double>(z.rows());
      std::vector<double> rows(static_cast<size_t>(z.rows()));
      parallel_for(z.rows(), [&](int64_t t) {
        double sum = 0;
        for (int64_t i = 0; i < hidden_; ++i) {
          float& value = z.row(t)[i];
          const int level = best_level(square(value), sample);
          const double error = kRelativeError[static_cast<size_t>(level)];
          sum += square(value) * error + price_ * sample.bit_price * level;
          value *= static_cast<float>(2 * error * share);
        }
        rows[static_cast<size_t>(t)] = sum;
      });
      for (const double row : rows) cost += row * share;
      if (derivative) product_tn(sample.x, z, *derivative, Output::add);
    }
    return cost;
  }

 private:
  static double square(float value) { return static_cast<double>(value) * static_cast<double>(value); }

  static MatrixBuffer<float> project(const Sample& sample, const MatrixBuffer<float>& basis) {
    MatrixBuffer<float> z(sample.x.rows(), basis.cols());
    product_nn(sample.x, basis, z);
    return z;
  }

  int best_level(double energy, const Sample& sample) const {
    const double bit = price_ * sample.bit_price;
    int best = 0;
    double least = energy;
    for (int level = 1; level < static_cast<int>(kRelativeError.size()); ++level)
      if (const double cost = energy * kRelativeError[static_cast<size_t>(level)] + bit * level; cost < least)
        least = cost, best = level;
    return best;
  }

  std::vector<Sample> samples_;
  int64_t hidden_;
  double price_ = 0;
};

MatrixBuffer<float> product(const MatrixBuffer<float>& a, const MatrixBuffer<float>& b) {
  MatrixBuffer<float> y(a.rows(), b.cols());
  product_nn(a, b, y);
  return y;
}

// Gram-Schmidt on the columns, twice: what is orthogonal to about the rounding of float64.
void orthonormalize(MatrixBuffer<float>& q) {
  const int64_t n = q.rows();
  MatrixBuffer<double> columns(n, n);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j) columns.row(j)[i] = q.row(i)[j];
  for (int64_t j = 0; j < n; ++j) {
    double* column = columns.row(j);
    for (int pass = 0; pass < 2; ++pass) {
      for (int64_t k = 0; k < j; ++k) {
        const double* other = columns.row(k);
        double along = 0;
        for (int64_t i = 0; i < n; ++i) along += column[i] * other[i];
        for (int64_t i = 0; i < n; ++i) column[i] -= along * other[i];
      }
      double length = 0;
      for (int64_t i = 0; i < n; ++i) length += column[i] * column[i];
      for (int64_t i = 0; i < n; ++i) column[i] /= std::sqrt(length);
    }
  }
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j) q.row(i)[j] = static_cast<float>(columns.row(j)[i]);
}

// Conjugate descent on the orthogonal matrices: a step turns Q by a skew matrix, Q <- orthonormal(Q - s Q A),
// A = Q^T G - G^T Q; steps that do not lower the cost are halved.
class Descent {
 public:
  Descent(const GradedCost& cost, MatrixBuffer<float> start) : cost_(cost), q_(std::move(start)) {
    value_ = cost_(q_, &derivative_);
  }

  double value() const { return value_; }
  MatrixBuffer<float> take() { return std::move(q_); }

  // Whether a step was found.
  bool step() {
    const MatrixBuffer<float> skew = gradient();
    turn_towards(skew);
    const MatrixBuffer<float> along = product(q_, direction_);
    const double largest = size_of(direction_);
    for (int halvings = 0; halvings < 20 && largest > 0; ++halvings, length_ /= 2) {
      MatrixBuffer<float> tried(q_.rows(), q_.cols());
      const auto factor = static_cast<float>(length_ / largest);
      for (int64_t i = 0; i < tried.size(); ++i) tried.data()[i] = q_.data()[i] - factor * along.data()[i];
      orthonormalize(tried);
      MatrixBuffer<float> derivative;
      if (const double value = cost_(tried, &derivative); value < value_) {
        q_ = std::move(tried);
        derivative_ = std::move(derivative);
        value_ = value;
        length_ *= 1.5;
        return true;
      }
    }
    return false;
  }

 private:
  MatrixBuffer<float> gradient() const {
    const int64_t n = q_.rows();
    MatrixBuffer<float> product(n, n), skew(n, n);
    product_tn(q_, derivative_, product);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < n; ++j) skew.row(i)[j] = product.row(i)[j] - product.row(j)[i];
    return skew;
  }

  // Polak and Ribiere's mixture with the last direction; downhill alone where that would not go down.
  void turn_towards(const MatrixBuffer<float>& skew) {
    double change = 0, before = 0, down = 0, mixture = 0;
    if (last_.size() > 0) {
      for (int64_t i = 0; i < skew.size(); ++i) {
        const double now = skew.data()[i], was = last_.data()[i];
        change += now * (now - was);
        before += was * was;
      }
      mixture = before > 0 ? std::max(0.0, change / before) : 0.0;
    }
    MatrixBuffer<float> direction(skew.rows(), skew.cols());
    for (int64_t i = 0; i < skew.size(); ++i) {
      const float past = direction_.size() > 0 ? direction_.data()[i] : 0.0f;
      direction.data()[i] = skew.data()[i] + static_cast<float>(mixture) * past;
      down += static_cast<double>(direction.data()[i]) * static_cast<double>(skew.data()[i]);
    }
    last_ = MatrixBuffer<float>(skew.rows(), skew.cols());
    std::copy_n(skew.data(), skew.size(), last_.data());
    if (down <= 0) std::copy_n(skew.data(), skew.size(), direction.data());
    direction_ = std::move(direction);
  }

  static double size_of(const MatrixBuffer<float>& matrix) {
    double sum = 0;
    for (int64_t i = 0; i < matrix.size(); ++i)
      sum += static_cast<double>(matrix.data()[i]) * static_cast<double>(matrix.data()[i]);
    return std::sqrt(sum);
  }

  const GradedCost& cost_;
  MatrixBuffer<float> q_, derivative_, last_, direction_;
  double value_ = 0, length_ = 0.5;  // of a step, as the Frobenius norm of the turn
};

class RotateLearned final : public ModelTransform {
 public:
  struct Options {
    double bits = 2.5;
    int64_t steps = 60;
    template <class V>
    void fields(V& v) {
      v("bits", bits, Range{0.5, 7}, "mean bits that the price of a bit is set for");
      v("steps", steps, Range{0, 10000}, "of the descent; 0: the principal directions");
    }
  };
  explicit RotateLearned(Options options) : options_(options) {}

  CollectorNames needs() const override { return {kInputs, kGradient}; }

  void see(std::span<const TransformSite> block) override {
    for (const TransformSite& site : block) {
      if (!site.residual) continue;
      const std::span<const float> inputs = site.stats.at(kInputs);
      const int64_t hidden = site.layers.front().weight.cols;
      Sample sample;
      double skipped = 0;  // what leaving out the mean column costs the loss, for an input of one
      for (const TransformSite::Layer& layer : site.layers) {
        check(layer.gradients, "gradients are shown where they are asked for");
        const std::span<const float> gradient = layer.gradients->at(kGradient);
        for (int64_t n = 0; n < layer.weight.rows; ++n)
          for (const float w : layer.weight.row_span(n))
            skipped += static_cast<double>(gradient[static_cast<size_t>(n)]) * static_cast<double>(w * w) /
                       static_cast<double>(hidden);
        sample.bit_price += static_cast<double>(layer.weight.rows);
      }
      sample.x = MatrixBuffer<float>(static_cast<int64_t>(inputs.size()) / hidden, hidden);
      for (size_t i = 0; i < inputs.size(); ++i)
        sample.x.data()[i] = inputs[i] * static_cast<float>(std::sqrt(skipped));
      samples_.push_back(std::move(sample));
    }
  }

  TransformPlan plan(int64_t hidden, uint64_t) override {
    GradedCost cost(std::move(samples_), hidden);
    const SymmetricEigen eigen = symmetric_eigen(cost.moments().view());
    MatrixBuffer<float> start(hidden, hidden);
    for (int64_t i = 0; i < hidden; ++i)
      for (int64_t j = 0; j < hidden; ++j) start.row(i)[j] = static_cast<float>(eigen.vectors.row(j)[i]);
    cost.set_price(start, options_.bits);
    Descent descent(cost, std::move(start));
    for (int64_t step = 0; step < options_.steps; ++step)
      if (!descent.step()) break;
    TransformPlan plan;
    plan.residual_basis = descent.take();
    return plan;
  }

 private:
  Options options_;
  std::vector<Sample> samples_;
};

const Register<ModelTransform, RotateLearned> plugin{
    "rotate_learned",
    "the basis of the residual stream in which graded precision costs the loss least on sampled tokens"};

}  // namespace
}  // namespace grinqh
