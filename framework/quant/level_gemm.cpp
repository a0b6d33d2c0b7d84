#include "quant/level_gemm.h"

#include <algorithm>
#include <vector>

#include "core/error.h"
#include "core/gemm.h"
#include "core/ordered_product.h"
#include "core/parallel.h"

namespace grinqh {

namespace {

constexpr int64_t kFewTokens = 2;  // up to here each token's weights are dequantized for itself
constexpr int64_t kTileTokens = 256;
constexpr int64_t kCompactTokens = 64;  // fewer tokens share a column list: their union stays small
constexpr int64_t kTileOutputs = 1024;
constexpr double kDenseShare = 0.6;  // above, gathering columns costs more than it saves
constexpr double kSparseTerm = 2.0;  // cost of a term that is multiplied for one token alone

int64_t tiles(int64_t count, int64_t tile) { return (count + tile - 1) / tile; }

bool all_same(std::span<const Level> levels) {
  return std::ranges::all_of(levels, [&](Level level) { return level == levels[0]; });
}

// Calls body(begin, end, scratch [end - begin, in]) for a few outputs at a time, shared among threads.
template <class Body>
void for_output_rows(const QuantizedLinear& linear, const Body& body) {
  constexpr int64_t kRows = 64;
  parallel_for(tiles(linear.out(), kRows), [&](int64_t task) {
    const int64_t begin = task * kRows;
    const int64_t end = std::min(begin + kRows, linear.out());
    thread_local std::vector<float> scratch;
    scratch.resize(static_cast<size_t>((end - begin) * linear.in()));
    body(begin, end, Matrix<float>(scratch.data(), end - begin, linear.in()));
  });
}

// y = x D_level^T, dequantizing a few rows at a time.
void multiply_rowwise(const QuantizedLinear& linear, Level level, Matrix<const float> x, Matrix<float> y) {
  const std::vector<Level> levels(static_cast<size_t>(linear.in()), linear.resolve(level));
  for_output_rows(linear, [&](int64_t begin, int64_t end, Matrix<float> w) {
    linear.dequantize_rows(levels, begin, end, w);
    matmul_nt_serial(x, w, y.cols_between(begin, end));
  });
}

// One token: level by level as in a batch, so that the sums are the same.
void multiply_token(const QuantizedLinear& linear, std::span<const Level> levels, Matrix<const float> x,
                    Matrix<float> y) {
  if (all_same(levels)) return multiply_rowwise(linear, levels[0], x, y);
  std::vector<Level> steps;
  for (const Level level : linear.levels())
    if (level > 0) steps.push_back(level);
  // What each step reads: its level where the token reaches it, nothing elsewhere.
  MatrixBuffer<Level> step_levels(static_cast<int64_t>(steps.size()), linear.in());
  MatrixBuffer<float> step_x(static_cast<int64_t>(steps.size()), linear.in());
  for (size_t k = 0; k < steps.size(); ++k)
    for (int64_t i = 0; i < linear.in(); ++i) {
      const bool reached = levels[static_cast<size_t>(i)] >= steps[k];
      step_levels.row(static_cast<int64_t>(k))[i] = reached ? steps[k] : Level{0};
      step_x.row(static_cast<int64_t>(k))[i] = reached ? x(0, i) : 0.0f;
    }
  for_output_rows(linear, [&](int64_t begin, int64_t end, Matrix<float> current) {
    thread_local std::vector<float> previous;
    previous.assign(static_cast<size_t>((end - begin) * linear.in()), 0.0f);
    const Matrix<float> to = y.cols_between(begin, end);
    for (int64_t k = 0; k < step_x.rows(); ++k) {
      linear.dequantize_rows(step_levels.view().row_span(k), begin, end, current);
      const auto size = static_cast<int64_t>(previous.size());
      for (int64_t i = 0; i < size; ++i) {
        const float value = current.data[i];
        current.data[i] = value - previous[static_cast<size_t>(i)];
        previous[static_cast<size_t>(i)] = value;
      }
      matmul_nt_serial(step_x.view().rows_between(k, k + 1), current, to,
                       k == 0 ? Output::overwrite : Output::add);
    }
  });
}

// Rows of a batch whose channels all have one level, by level; and the others.
struct RowSplit {
  std::vector<int64_t> uniform[kMaxLevel + 1];
  std::vector<int64_t> graded;

  explicit RowSplit(Matrix<const Level> levels) {
    for (int64_t t = 0; t < levels.rows; ++t) {
      const std::span<const Level> row = levels.row_span(t);
      (all_same(row) ? uniform[row[0]] : graded).push_back(t);
    }
  }
};

// y rows = x rows w^T for the listed rows only.
void multiply_listed_rows(std::span<const int64_t> rows, Matrix<const float> x, Matrix<const float> w,
                          Matrix<float> y) {
  MatrixBuffer<float> x_rows(static_cast<int64_t>(rows.size()), x.cols);
  MatrixBuffer<float> y_rows(static_cast<int64_t>(rows.size()), y.cols);
  for (size_t i = 0; i < rows.size(); ++i)
    std::copy_n(x.row(rows[i]), x.cols, x_rows.row(static_cast<int64_t>(i)));
  matmul_nt(x_rows, w, y_rows);
  for (size_t i = 0; i < rows.size(); ++i)
    std::copy_n(y_rows.row(static_cast<int64_t>(i)), y.cols, y.row(rows[i]));
}

// The step of one level for graded rows: y += (x o [level >= b]) delta^T, with delta transposed to [in, out].
class LevelStep {
 public:
  LevelStep(Level level, Matrix<const float> delta, const ForwardArgs& args)
      : level_(level), delta_(delta), args_(args) {}

  void add(std::span<const int64_t> rows) const {
    const int64_t across = tiles(args_.y.cols, kTileOutputs);
    const int64_t down = tiles(static_cast<int64_t>(rows.size()), kTileTokens);
    parallel_for(down * across, [&](int64_t task) {
      const int64_t t0 = task / across * kTileTokens;
      const auto tile = rows.subspan(static_cast<size_t>(t0),
                                     std::min<size_t>(kTileTokens, rows.size() - static_cast<size_t>(t0)));
      const int64_t n0 = task % across * kTileOutputs;
      add_tile(tile, n0, std::min(n0 + kTileOutputs, args_.y.cols));
    });
  }

 private:
  // Channels that one of the rows reads at this level; adds the rows' own channels up in `terms`.
  std::vector<int32_t> active_channels(std::span<const int64_t> rows, double& terms) const {
    std::vector<uint8_t> any(static_cast<size_t>(args_.x.cols), 0);
    for (const int64_t t : rows)
      terms += static_cast<double>(mark(args_.precision.levels.row_span(t), any.data()));
    std::vector<int32_t> active(any.size());
    size_t count = 0;
    for (size_t i = 0; i < any.size(); ++i) {
      active[count] = static_cast<int32_t>(i);
      count += any[i];
    }
    active.resize(count);
    return active;
  }

  // any[i] |= the level is reached; returns how many are.
  int64_t mark(std::span<const Level> levels, uint8_t* __restrict any) const {
    const Level* __restrict from = levels.data();
    const Level least = level_;
    int64_t total = 0;
    constexpr size_t kBlock = 128;  // its count fits into a byte
    for (size_t begin = 0; begin < levels.size(); begin += kBlock) {
      uint8_t count = 0;
      const size_t end = std::min(begin + kBlock, levels.size());
      for (size_t i = begin; i < end; ++i) {
        const auto reached = static_cast<uint8_t>(from[i] >= least);
        any[i] |= reached;
        count = static_cast<uint8_t>(count + reached);
      }
      total += count;
    }
    return total;
  }

  void add_tile(std::span<const int64_t> rows, int64_t n0, int64_t n1) const {
    std::vector<std::pair<std::span<const int64_t>, std::vector<int32_t>>> parts;
    double columns = 0, terms = 0;  // of all rows
    for (size_t begin = 0; begin < rows.size(); begin += kCompactTokens) {
      const auto part = rows.subspan(begin, std::min<size_t>(kCompactTokens, rows.size() - begin));
      parts.emplace_back(part, active_channels(part, terms));
      columns += static_cast<double>(parts.back().second.size() * part.size());
    }
    const double size = static_cast<double>(rows.size()) * static_cast<double>(args_.x.cols);
    const bool all = columns > kDenseShare * size;
    if (kSparseTerm * terms < (all ? size : columns)) return multiply_sparse(rows, n0, n1);
    if (all) return multiply(rows, {}, n0, n1);
    for (const auto& [part, active] : parts)
      if (!active.empty()) multiply(part, active, n0, n1);
  }

  // The same product token by token, each by its own channels.
  void multiply_sparse(std::span<const int64_t> rows, int64_t n0, int64_t n1) const {
    const auto in = static_cast<size_t>(args_.x.cols);
    thread_local std::vector<int32_t> channels;
    thread_local std::vector<float> values;
    channels.resize(rows.size() * in);
    values.resize(rows.size() * in);
    std::vector<size_t> begins{0};
    for (const int64_t t : rows)
      begins.push_back(begins.back() +
                       gather(t, channels.data() + begins.back(), values.data() + begins.back()));
    std::vector<SparseRow> x;
    std::vector<float*> y;
    for (size_t r = 0; r < rows.size(); ++r) {
      const std::span<const int32_t> all(channels);
      x.push_back({all.subspan(begins[r], begins[r + 1] - begins[r]), values.data() + begins[r]});
      y.push_back(args_.y.row(rows[r]) + n0);
    }
    add_ordered_product(x, delta_.cols_between(n0, n1), y);
  }

  // The channels that row t reads at this level, and their inputs; returns how many there are. Space for all.
  size_t gather(int64_t t, int32_t* __restrict channels, float* __restrict values) const {
    const float* __restrict from = args_.x.row(t);
    const Level* __restrict levels = args_.precision.levels.row(t);
    const Level least = level_;
    size_t count = 0;
    for (int32_t i = 0; i < args_.x.cols; ++i) {
      channels[count] = i;
      values[count] = from[i];
      count += levels[i] >= least;
    }
    return count;
  }

  // to[j] = x(t, active[j]), zero where the level is not reached; no active channels listed: all.
  void mask(int64_t t, std::span<const int32_t> active, float* __restrict to) const {
    const float* __restrict from = args_.x.row(t);
    const Level* __restrict levels = args_.precision.levels.row(t);
    const Level least = level_;
    if (active.empty()) {
      for (int64_t i = 0; i < args_.x.cols; ++i) to[i] = levels[i] >= least ? from[i] : 0.0f;
    } else {
      for (size_t j = 0; j < active.size(); ++j) to[j] = levels[active[j]] >= least ? from[active[j]] : 0.0f;
    }
  }

  // y[rows, n0:n1] += x[rows, active] (masked) delta[active, n0:n1]; no active channels listed: all.
  void multiply(std::span<const int64_t> rows, std::span<const int32_t> active, int64_t n0,
                int64_t n1) const {
    thread_local std::vector<float> scratch;
    const auto width = active.empty() ? args_.x.cols : static_cast<int64_t>(active.size());
    scratch.resize(rows.size() * static_cast<size_t>(width));
    const Matrix<float> x(scratch.data(), static_cast<int64_t>(rows.size()), width);
    std::vector<float*> y;
    for (size_t r = 0; r < rows.size(); ++r) {
      mask(rows[r], active, x.row(static_cast<int64_t>(r)));
      y.push_back(args_.y.row(rows[r]) + n0);
    }
    add_ordered_product(x, {delta_.cols_between(n0, n1), false, active}, y);
  }

  Level level_;
  Matrix<const float> delta_;
  const ForwardArgs& args_;
};

// delta = (current - previous)^T, in blocks that stay in cache.
void transposed_difference(Matrix<const float> current, const MatrixBuffer<float>& previous,
                           Matrix<float> delta) {
  constexpr int64_t kBlock = 32;
  const bool first = previous.size() == 0;
  parallel_for(tiles(current.rows, kBlock), [&](int64_t task) {
    const int64_t n0 = task * kBlock, n1 = std::min(n0 + kBlock, current.rows);
    for (int64_t k0 = 0; k0 < current.cols; k0 += kBlock) {
      const int64_t k1 = std::min(k0 + kBlock, current.cols);
      for (int64_t k = k0; k < k1; ++k)
        for (int64_t n = n0; n < n1; ++n)
          delta(k, n) = current(n, k) - (first ? 0.0f : previous.view()(n, k));
    }
  });
}

void multiply_batch(const QuantizedLinear& linear, const ForwardArgs& args) {
  const RowSplit rows(args.precision.levels);
  for (int64_t t = 0; t < args.y.rows; ++t) std::fill_n(args.y.row(t), args.y.cols, 0.0f);
  MatrixBuffer<float> previous;
  MatrixBuffer<float> delta(rows.graded.empty() ? 0 : linear.in(), linear.out());
  for (const Level level : linear.levels()) {
    if (level == 0 || (rows.uniform[level].empty() && rows.graded.empty())) continue;
    MatrixBuffer<float> current = linear.dequantize(level);
    if (!rows.uniform[level].empty()) multiply_listed_rows(rows.uniform[level], args.x, current, args.y);
    if (rows.graded.empty()) continue;
    transposed_difference(current, previous, delta);
    LevelStep(level, delta, args).add(rows.graded);
    previous = std::move(current);
  }
}

}  // namespace

void forward_by_levels(const QuantizedLinear& linear, const ForwardArgs& args) {
  check(args.x.cols == linear.in() && args.y.cols == linear.out() && args.x.rows == args.y.rows,
        "forward: shapes");
  const bool uniform = args.precision.levels.empty();
  if (args.x.rows > kFewTokens) {
    if (uniform)
      matmul_nt(args.x, linear.dequantize(args.precision.uniform), args.y);
    else
      multiply_batch(linear, args);
  } else if (uniform) {
    multiply_rowwise(linear, args.precision.uniform, args.x, args.y);
  } else {
    for (int64_t t = 0; t < args.x.rows; ++t)
      multiply_token(linear, args.precision.levels.row_span(t), args.x.rows_between(t, t + 1),
                     args.y.rows_between(t, t + 1));
  }
}

}  // namespace grinqh
