// The optimal grading of channels: the squared output error of reading channel i at level b is x_i^2
// eps_i(b), eps_i(b) = ||W[:,i] - D_b[:,i]||^2. Minimized under a mean number of bits, it raises a channel
// from level b_k to b_(k+1) where
//
//   |x_i| > sqrt(lambda (b_(k+1) - b_k) / (eps_i(b_k) - eps_i(b_(k+1)))),
//
// so all thresholds have fixed ratios and one scalar, sqrt(lambda), sets the budget.
#pragma once

#include <span>
#include <vector>

#include "core/matrix.h"
#include "quant/log_histogram.h"
#include "quant/precision.h"
#include "quant/quantized_linear.h"

namespace grinqh {

// eps_i(b) of every channel at every level. [levels, in]. row_weights: [out], what the error of each output
// counts; empty: all alike.
MatrixBuffer<double> level_errors(Matrix<const float> weight, const QuantizedLinear& quantized,
                                  std::span<const Level> levels, std::span<const float> row_weights = {});

// What an accelerator is asked for.
struct LevelTask {
  Matrix<const float> weight;
  const QuantizedLinear& quantized;
  std::span<const Level> levels;  // that the layer stores, or 0
  std::span<const float> row_weights;
  Matrix<double> errors;  // [levels, in]
};

// Thresholds at lambda = 1 of the steps between neighbouring levels, [levels - 1, in]. Where they would not
// ascend the steps are taken together (the lower convex hull of error over bits).
MatrixBuffer<float> unit_thresholds(Matrix<const double> errors, std::span<const Level> levels);

// Mean code bits of one layer as a function of the factor on its thresholds.
class LayerBits {
 public:
  // histogram: [in, LogHistogram::kBins], as the collector counts. thresholds: [levels - 1, in].
  LayerBits(std::span<const float> histogram, Matrix<const float> thresholds, std::span<const Level> levels,
            int64_t out);
  double mean(double scale) const;
  double weights() const { return weights_; }

 private:
  std::vector<MagnitudeDistribution> channels_;
  Matrix<const float> thresholds_;
  std::vector<Level> levels_;
  double weights_;
};

// The factor on all thresholds at which the mean level over weights and calibration tokens is `bits`.
double solve_threshold_scale(std::span<const LayerBits* const> layers, double bits);
// The same for one layer.
double solve_threshold_scale(std::span<const float> histogram, Matrix<const float> thresholds,
                             std::span<const Level> levels, double bits);

// The part of each channel's energy that is served at each level above 0: E[x_i^2 1(level = b)] / E[x_i^2
// 1(level > 0)]. [levels, in], rows of level 0 are zero. A channel that is never read counts as read at the
// first level above 0.
MatrixBuffer<float> energy_shares(std::span<const float> histogram, Matrix<const float> thresholds,
                                  double scale, std::span<const Level> levels);

}  // namespace grinqh
