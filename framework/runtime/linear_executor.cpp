#include "runtime/linear_executor.h"

#include <algorithm>

#include "core/error.h"
#include "core/gemm.h"
#include "core/parallel.h"
#include "runtime/ops.h"

namespace grinqh {

void FloatLinears::run(const LinearWeights& linear, ConstActivations inputs, Activations outputs) {
  const Matrix<const float> x = inputs.matrix();
  const Matrix<float> y = outputs.matrix();
  constexpr int64_t kFewTokens = 16;  // up to here a few rows of weights at a time are converted in cache
  constexpr int64_t kRows = 64;
  if (x.rows > kFewTokens) {
    matmul_nt(x, to_float(linear.weight), y);
  } else {
    parallel_for((y.cols + kRows - 1) / kRows, [&](int64_t task) {
      const int64_t begin = task * kRows, end = std::min(begin + kRows, y.cols);
      thread_local std::vector<float> scratch;
      scratch.resize(static_cast<size_t>((end - begin) * x.cols));
      const Matrix<float> w(scratch.data(), end - begin, x.cols);
      to_float(linear.weight, begin, end, w);
      matmul_nt_serial(x, w, y.cols_between(begin, end));
    });
  }
  if (!linear.bias.empty()) add_bias(y, to_float_vector(linear.bias));
}

namespace {

bool one_level_a_row(Matrix<const Level> levels) {
  if (levels.empty()) return false;
  for (int64_t t = 0; t < levels.rows; ++t) {
    const std::span<const Level> row = levels.row_span(t);
    if (std::ranges::count(row, row[0]) != levels.cols) return false;
  }
  return true;
}

// Tokens that read all their channels at one level are multiplied together with those of the same level: a
// level is decoded once, and each token is multiplied once, whatever the number of levels.
void forward_by_rows(const Kernel& kernel, const QuantizedLinear& layer, const ForwardArgs& args) {
  for (const Level level : layer.levels()) {
    std::vector<int64_t> rows;
    for (int64_t t = 0; t < args.x.rows; ++t)
      if (args.precision.levels(t, 0) == level) rows.push_back(t);
    if (rows.empty()) continue;
    MatrixBuffer<float> x(static_cast<int64_t>(rows.size()), args.x.cols);
    MatrixBuffer<float> y(x.rows(), args.y.cols);
    for (int64_t i = 0; i < x.rows(); ++i)
      std::copy_n(args.x.row(rows[static_cast<size_t>(i)]), x.cols(), x.row(i));
    kernel.forward(layer, {x, y, {level, {}}});
    for (int64_t i = 0; i < y.rows(); ++i)
      std::copy_n(y.row(i), y.cols(), args.y.row(rows[static_cast<size_t>(i)]));
  }
}

}  // namespace

QuantizedLinears::QuantizedLinears(const QuantizedModel& model, const PrecisionPolicy* policy,
                                   Level prefill_level, DecodeKernels decode_kernels)
    : model_(model), policy_(policy), prefill_level_(prefill_level), decode_kernels_(decode_kernels) {}

const Gemv* QuantizedLinears::gemv_of(const QuantizedLinear& layer, const Precision& precision) {
  const auto rows = std::ssize(steps_);
  if (decode_kernels_ == DecodeKernels::exact || decoded_rows_ < rows || rows > kMaxGemvTokens)
    return nullptr;
  const bool full = precision.levels.empty() && precision.uniform == layer.full_level();
  const bool graded = !full && layer.levels().size() > 1;
  const auto [it, added] = gemvs_.try_emplace({&layer, graded});
  if (added) it->second = make_gemv(layer, graded);
  return it->second.get();
}

void QuantizedLinears::begin_batch(std::span<const Step> steps) {
  steps_.assign(steps.begin(), steps.end());
  decoded_rows_ = std::ranges::count(steps_, Phase::decode, &Step::phase);
  traffic_.codes.assign(steps.size(), 0);
  traffic_.total.assign(steps.size(), 0);
}

void QuantizedLinears::run(const LinearWeights& linear, ConstActivations inputs, Activations outputs) {
  const auto it = model_.layers.find(linear.id);
  if (it == model_.layers.end()) return float_.run(linear, inputs, outputs);
  const Matrix<const float> x = inputs.matrix();
  const Matrix<float> y = outputs.matrix();
  const QuantizedLinear& layer = *it->second;
  const Precision precision = choose(layer, linear.id, x);
  count(layer, precision);
  const Kernel& kernel = find_kernel(layer.layout(), Device::cpu);
  if (const Gemv* gemv = gemv_of(layer, precision))
    gemv->run(x, precision, y);
  else if (one_level_a_row(precision.levels))
    forward_by_rows(kernel, layer, {x, y, precision});
  else
    kernel.forward(layer, {x, y, precision});
  if (!linear.bias.empty()) add_bias(y, to_float_vector(linear.bias));
  if (policy_ && decoded_rows_ > 0) add_offset(policy_->offset(linear.id), y);
}

void QuantizedLinears::add_offset(std::span<const float> offset, Matrix<float> y) {
  if (offset.empty()) return;
  for (int64_t t = 0; t < y.rows; ++t) {
    if (steps_[static_cast<size_t>(t)].phase != Phase::decode) continue;
    add_bias(y.rows_between(t, t + 1), offset);
    traffic_.total[static_cast<size_t>(t)] += 16 * y.cols;
  }
}

Precision QuantizedLinears::choose(const QuantizedLinear& layer, const std::string& id,
                                   Matrix<const float> x) {
  const Level prefill = layer.resolve(prefill_level_);
  if (decoded_rows_ == 0) return {prefill, {}};
  if (!policy_) return {layer.full_level(), {}};
  scratch_.resize(static_cast<size_t>(x.rows * x.cols));
  const Matrix<Level> levels(scratch_.data(), x.rows, x.cols);
  Precision chosen = policy_->choose(id, steps_, x, levels);
  if (chosen.levels.empty()) chosen.uniform = layer.resolve(chosen.uniform);
  if (decoded_rows_ == x.rows) return chosen;
  for (int64_t t = 0; t < x.rows; ++t) {
    if (steps_[static_cast<size_t>(t)].phase == Phase::prefill)
      std::ranges::fill(levels.row_span(t), prefill);
    else if (chosen.levels.empty())
      std::ranges::fill(levels.row_span(t), chosen.uniform);
  }
  return {kFullLevel, levels};
}

void QuantizedLinears::count(const QuantizedLinear& layer, const Precision& precision) {
  const auto add = [&](size_t row, const BitCount& bits) {
    traffic_.codes[row] += bits.codes();
    traffic_.total[row] += bits.total();
  };
  if (precision.levels.empty()) {
    const BitCount bits = layer.read_bits(LevelCounts::uniform(precision.uniform, layer.in()));
    for (size_t row = 0; row < steps_.size(); ++row) add(row, bits);
  } else {
    for (size_t row = 0; row < steps_.size(); ++row)
      add(row, layer.read_bits(
                   LevelCounts::of(precision.levels.row_span(static_cast<int64_t>(row)), layer.levels())));
  }
}

void ReplacedLinears::run(const LinearWeights& linear, ConstActivations x, Activations y) {
  const auto it = std::ranges::find(layers_, &linear);
  if (it == layers_.end()) return float_.run(linear, x, y);
  matmul_nt(x.matrix(), weights_[static_cast<size_t>(it - layers_.begin())], y.matrix());
  if (!linear.bias.empty()) add_bias(y.matrix(), to_float_vector(linear.bias));
}

}  // namespace grinqh
