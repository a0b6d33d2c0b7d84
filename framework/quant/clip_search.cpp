#include "quant/clip_search.h"

#include <algorithm>
#include <cmath>

#include "core/accelerator.h"
#include "core/error.h"
#include "core/gemm.h"
#include "core/parallel.h"
#include "core/vector_math.h"
#include "quant/affine_grid.h"

namespace grinqh {

namespace {

constexpr int64_t kTaskRows = 64;

float largest_magnitude(std::span<const float> group) {
  float largest = 0;
  for (const float weight : group) largest = std::max(largest, std::abs(weight));
  return largest;
}

void clamp_group(std::span<const float> group, float limit, std::span<float> to) {
  for (size_t i = 0; i < group.size(); ++i) to[i] = clamped(group[i], -limit, limit);
}

// Group [begin, end) of some rows.
void search_rows(const ClipTask& task, int64_t begin, int64_t end, int64_t first, int64_t last) {
  const AffineGridRule rule{task.bits, false};
  const auto top = static_cast<float>(rule.top_code());
  const int64_t rows = last - first;
  MatrixBuffer<float> error(rows, end - begin), output(rows, task.inputs.rows);
  std::vector<float> kept(static_cast<size_t>(end - begin));
  std::vector<double> least(static_cast<size_t>(rows), HUGE_VAL);
  for (int step = 0; step < task.steps; ++step) {
    const float share = task.share(step);
    for (int64_t r = 0; r < rows; ++r) {
      const std::span<const float> group = task.weight.cols_between(begin, end).row_span(first + r);
      const float limit = product_of(share, largest_magnitude(group));
      clamp_group(group, limit, kept);
      const AffineGrid grid = rule.fit(kept, task.layer);
      const float scale = from_half(grid.scale), zero = grid.zero;
      for (size_t i = 0; i < group.size(); ++i)
        error.row(r)[i] = clipped_error(group[i], limit, scale, zero, top);
    }
    matmul_nt_serial(error, task.inputs.cols_between(begin, end), output);
    for (int64_t r = 0; r < rows; ++r) {
      const double sum = sum_of_squares(output.view().row_span(r));
      if (sum >= least[static_cast<size_t>(r)]) continue;
      least[static_cast<size_t>(r)] = sum;
      task.shares(first + r, begin / task.group) = share;
    }
  }
}

}  // namespace

void search_clips(const ClipTask& task) {
  const int64_t out = task.weight.rows, in = task.weight.cols;
  check(task.group > 0 && task.steps > 0 && task.share_steps > 0, "clips: groups and steps");
  const int64_t groups = (in + task.group - 1) / task.group;
  check(task.inputs.cols == in && task.shares.rows == out && task.shares.cols == groups, "clips: shapes");
  if (const auto installed = accelerator()) return installed->search_clips(task);
  parallel_for((out + kTaskRows - 1) / kTaskRows * groups, [&](int64_t index) {
    const int64_t begin = index % groups * task.group, first = index / groups * kTaskRows;
    search_rows(task, begin, std::min(begin + task.group, in), first, std::min(first + kTaskRows, out));
  });
}

std::vector<float> clipped_group(std::span<const float> group, float share) {
  std::vector<float> kept(group.size());
  clamp_group(group, product_of(share, largest_magnitude(group)), kept);
  return kept;
}

}  // namespace grinqh
