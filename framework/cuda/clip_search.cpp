#include "cuda/clip_search.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "core/error.h"
#include "cuda/group_rounding.h"
#include "cuda/memory.h"
#include "quant/affine_grid.h"

namespace grinqh::cuda {

namespace {

constexpr int64_t kSlabElements = int64_t{1} << 28;  // of weights, of errors and of outputs, each

}  // namespace

// The outputs themselves are summed, not e G e^T with the inputs' second moments G: where large inputs go
// together, that sum is what is left of far greater ones that cancel.
void search_clips(const ClipTask& task, Solver& solver, Transfers& transfers, Stream stream) {
  const int64_t in = task.weight.cols, tokens = task.inputs.rows, groups = task.shares.cols;
  if (task.weight.empty()) return;
  const int64_t slab =
      std::clamp<int64_t>(kSlabElements / std::max(in, tokens * groups), 1, task.weight.rows);
  const Array<float> x(tokens * in, stream), weight(slab * in, stream), errors(slab * in, stream),
      outputs(slab * tokens * groups, stream), shares(slab * groups, stream);
  const Array<double> least(slab * groups, stream);
  const MatrixBuffer<double> infinite(1, slab * groups);
  std::fill_n(infinite.data(), infinite.size(), HUGE_VAL);
  const Array<uint32_t> too_large(1, stream);
  fill_zero(too_large.data(), sizeof(uint32_t), stream);
  transfers.upload(task.inputs, x.data(), stream);
  const AffineGridRule rule{task.bits, false};
  const GroupRounding rounding{rule.plain(), task.group, too_large.data()};

  for (int64_t begin = 0; begin < task.weight.rows; begin += slab) {
    const int64_t rows = std::min(slab, task.weight.rows - begin);
    transfers.upload(task.weight.rows_between(begin, begin + rows), weight.data(), stream);
    transfers.upload(Matrix<const double>(infinite.data(), 1, rows * groups), least.data(), stream);
    const LeastClips clips{rows, groups, least.data(), shares.data()};
    // Of one group or several of equal width, [first, first + count).
    const auto multiply = [&](int64_t first, int64_t count, int64_t width) {
      const int64_t column = first * task.group, each = rows * tokens;
      solver.multiply_nt({errors.data() + column, rows, width, in, Type::f32},
                         {x.data() + column, tokens, width, in, Type::f32},
                         {outputs.data() + first * each, rows, tokens, tokens, Type::f32}, count,
                         {task.group, task.group, each});
    };
    const int64_t whole = in / task.group;
    for (int step = 0; step < task.steps; ++step) {
      clipped_errors(weight.data(), rows, in, task.share(step), rounding, errors.data(), stream);
      multiply(0, whole, task.group);
      if (whole < groups) multiply(whole, 1, in - whole * task.group);
      keep_least(outputs.data(), tokens, task.share(step), clips, stream);
    }
    uint32_t refused = 0;
    to_host(too_large.data(), &refused, sizeof(refused), stream);
    if (refused) refuse_scale(task.layer, std::bit_cast<float>(refused));
    transfers.download(shares.data(), task.shares.rows_between(begin, begin + rows), stream);
  }
}

}  // namespace grinqh::cuda
