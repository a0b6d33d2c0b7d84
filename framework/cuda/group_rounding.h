// Rounding to nearest of groups of consecutive weights, each on the grid of its own range
// (quant/rounding_rules.h): the steps of searches for what to do to weights before they are rounded.
#pragma once

#include "cuda/types.h"
#include "quant/rounding_rules.h"

namespace grinqh::cuda {

struct GroupRounding {
  AffineRule rule;      // shares: 1
  int64_t group;        // the last group of a row may be short
  uint32_t* too_large;  // gets the bits of the greatest scale that does not fit into float16; zero before
};

// to = Q(w diag(s)) diag(1 / s), as quant/scaled_rounding.h. w, to: one shape and type; scales: [cols].
void round_scaled(ConstView w, const float* scales, const GroupRounding& rounding, View to, Stream stream);

// What weights are off by if those of every group are clamped to a share of its largest magnitude and
// rounded. weight, errors: [rows, in], dense.
void clipped_errors(const float* weight, int64_t rows, int64_t in, float share, const GroupRounding& rounding,
                    float* errors, Stream stream);

// What a clip's outputs are compared with.
struct LeastClips {
  int64_t rows, groups;
  double* least;  // [groups, rows]: sums of squares, infinite before the first share
  float* shares;  // [rows, groups]
};

// Where the sum of squares of outputs[g, r, :] is below the least one, it and the share take its place.
// outputs: [groups, rows, tokens].
void keep_least(const float* outputs, int64_t tokens, float share, const LeastClips& clips, Stream stream);

}  // namespace grinqh::cuda
