#include "quant/grading_rule.h"

#include <algorithm>
#include <cmath>

#include "core/accelerator.h"
#include "core/error.h"
#include "core/parallel.h"
#include "quant/log_histogram.h"

namespace grinqh {

namespace {

// Steps between levels that are taken together.
struct Run {
  double bits, saved;
  int steps;
  double price() const { return saved > 0 ? bits / saved : HUGE_VAL; }
};

MagnitudeDistribution distribution(std::span<const float> histogram, int64_t channel) {
  return MagnitudeDistribution(
      histogram.subspan(static_cast<size_t>(channel * LogHistogram::kBins), LogHistogram::kBins));
}

// body(i) for every channel, many of them a task.
template <class Body>
void for_channels(int64_t in, const Body& body) {
  constexpr int64_t kTaskChannels = 512;
  parallel_for((in + kTaskChannels - 1) / kTaskChannels, [&](int64_t task) {
    for (int64_t i = task * kTaskChannels; i < std::min((task + 1) * kTaskChannels, in); ++i) body(i);
  });
}

}  // namespace

MatrixBuffer<double> level_errors(Matrix<const float> weight, const QuantizedLinear& quantized,
                                  std::span<const Level> levels, std::span<const float> row_weights) {
  if (const auto installed = accelerator()) {
    std::vector<Level> resolved;
    for (const Level level : levels) resolved.push_back(level == 0 ? level : quantized.resolve(level));
    MatrixBuffer<double> errors(std::ssize(levels), weight.cols);
    installed->level_errors({weight, quantized, resolved, row_weights, errors.view()});
    return errors;
  }
  // Rows are decoded many at a time, and each channel then adds them up in their order, whatever the threads.
  constexpr int64_t kRows = 1024, kTaskRows = 64, kTaskChannels = 64;
  const int64_t in = weight.cols;
  auto errors = MatrixBuffer<double>::zeroed(static_cast<int64_t>(levels.size()), in);
  MatrixBuffer<float> decoded(std::min(kRows, weight.rows), in);
  for (size_t k = 0; k < levels.size(); ++k) {
    const Level level = levels[k] == 0 ? levels[k] : quantized.resolve(levels[k]);
    const std::vector<Level> everywhere(static_cast<size_t>(in), level);
    double* error = errors.row(static_cast<int64_t>(k));
    for (int64_t first = 0; first < weight.rows; first += kRows) {
      const int64_t rows = std::min(kRows, weight.rows - first);
      parallel_for((rows + kTaskRows - 1) / kTaskRows, [&](int64_t task) {
        const int64_t begin = task * kTaskRows, end = std::min(begin + kTaskRows, rows);
        const Matrix<float> part = decoded.view().rows_between(begin, end);
        if (level == 0)
          std::fill_n(part.data, part.rows * in, 0.0f);
        else
          quantized.dequantize_rows(everywhere, first + begin, first + end, part);
      });
      parallel_for((in + kTaskChannels - 1) / kTaskChannels, [&](int64_t task) {
        const int64_t begin = task * kTaskChannels, end = std::min(begin + kTaskChannels, in);
        for (int64_t row = 0; row < rows; ++row) {
          const double counts = row_weights.empty() ? 1.0 : row_weights[static_cast<size_t>(first + row)];
          for (int64_t i = begin; i < end; ++i) {
            const double difference =
                static_cast<double>(weight(first + row, i)) - static_cast<double>(decoded.row(row)[i]);
            error[i] += counts * difference * difference;
          }
        }
      });
    }
  }
  return errors;
}

MatrixBuffer<float> unit_thresholds(Matrix<const double> errors, std::span<const Level> levels) {
  const auto steps = static_cast<int64_t>(levels.size()) - 1;
  MatrixBuffer<float> thresholds(steps, errors.cols);
  for_channels(errors.cols, [&](int64_t i) {
    std::vector<Run> runs;
    for (int64_t k = 0; k < steps; ++k) {
      const auto at = static_cast<size_t>(k);
      runs.push_back({static_cast<double>(levels[at + 1] - levels[at]), errors(k, i) - errors(k + 1, i), 1});
      while (runs.size() > 1 && runs[runs.size() - 2].price() >= runs.back().price()) {
        const Run last = runs.back();
        runs.pop_back();
        runs.back().bits += last.bits;
        runs.back().saved += last.saved;
        runs.back().steps += last.steps;
      }
    }
    int64_t k = 0;
    for (const Run& run : runs)
      for (int step = 0; step < run.steps; ++step)
        thresholds.row(k++)[i] = static_cast<float>(std::sqrt(run.price()));
  });
  return thresholds;
}

LayerBits::LayerBits(std::span<const float> histogram, Matrix<const float> thresholds,
                     std::span<const Level> levels, int64_t out)
    : channels_(static_cast<size_t>(thresholds.cols)),
      thresholds_(thresholds),
      levels_(levels.begin(), levels.end()),
      weights_(static_cast<double>(out * thresholds.cols)) {
  for_channels(thresholds.cols,
               [&](int64_t i) { channels_[static_cast<size_t>(i)] = distribution(histogram, i); });
}

double LayerBits::mean(double scale) const {
  const int64_t steps = thresholds_.rows, in = thresholds_.cols;
  MatrixBuffer<double> bits(steps, in);
  for_channels(in, [&](int64_t i) {
    for (int64_t k = 0; k < steps; ++k)
      bits.row(k)[i] =
          (levels_[static_cast<size_t>(k + 1)] - levels_[static_cast<size_t>(k)]) *
          channels_[static_cast<size_t>(i)].share_above(scale * static_cast<double>(thresholds_(k, i)));
  });
  double sum = 0;  // in one order, whatever the threads
  for (int64_t i = 0; i < bits.size(); ++i) sum += bits.data()[i];
  return levels_[0] + sum / static_cast<double>(thresholds_.cols);
}

double solve_threshold_scale(std::span<const LayerBits* const> layers, double bits) {
  double weights = 0;
  for (const LayerBits* layer : layers) weights += layer->weights();
  const auto mean = [&](double scale) {
    double sum = 0;
    for (const LayerBits* layer : layers) sum += layer->weights() * layer->mean(scale);
    return sum / weights;
  };
  // The mean falls as the scale grows: bisection on the scale's logarithm.
  double low = -60, high = 60;
  for (int step = 0; step < 60; ++step) {
    const double middle = 0.5 * (low + high);
    (mean(std::exp2(middle)) > bits ? low : high) = middle;
  }
  return std::exp2(0.5 * (low + high));
}

double solve_threshold_scale(std::span<const float> histogram, Matrix<const float> thresholds,
                             std::span<const Level> levels, double bits) {
  const LayerBits layer(histogram, thresholds, levels, 1);
  const LayerBits* const all[] = {&layer};
  return solve_threshold_scale(all, bits);
}

MatrixBuffer<float> energy_shares(std::span<const float> histogram, Matrix<const float> thresholds,
                                  double scale, std::span<const Level> levels) {
  auto shares = MatrixBuffer<float>::zeroed(static_cast<int64_t>(levels.size()), thresholds.cols);
  const int64_t first = levels[0] == 0 ? 1 : 0;  // level above 0
  for_channels(thresholds.cols, [&](int64_t i) {
    const MagnitudeDistribution channel = distribution(histogram, i);
    const auto above = [&](int64_t level) {  // energy that reaches a level
      return level == 0 ? channel.mean_square()
                        : channel.mean_square_above(scale * static_cast<double>(thresholds(level - 1, i)));
    };
    const double total = above(first);
    for (int64_t k = first; k < shares.rows(); ++k) {
      const double reached = above(k), passed = k + 1 < shares.rows() ? above(k + 1) : 0.0;
      shares.row(k)[i] =
          total > 0 ? static_cast<float>((reached - passed) / total) : (k == first ? 1.0f : 0.0f);
    }
  });
  return shares;
}

}  // namespace grinqh
