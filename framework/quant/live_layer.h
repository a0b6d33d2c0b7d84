// A layer as methods with error feedback take it: an input that is always zero has no weights and a second
// moment of one, and the columns lie in the order of rounding.
#pragma once

#include <cstdint>
#include <span>

#include "core/matrix.h"

namespace grinqh {

// order: [in], the input of each place; empty: as they are.
using InputOrder = std::span<const int64_t>;

struct LiveLayer {
  MatrixBuffer<float> weight;   // [out, in]
  MatrixBuffer<float> moments;  // [in, in]
};
// second_moment: [in, in], as collected.
LiveLayer live_layer(Matrix<const float> weight, std::span<const float> second_moment, InputOrder order = {});

// The second moments alone.
MatrixBuffer<float> live_moments(std::span<const float> second_moment, int64_t in, InputOrder order = {});

// to(r, i) = from(r, order[i]).
MatrixBuffer<float> pick_columns(Matrix<const float> from, InputOrder order);
// to(i, j) = from(order[i], order[j]).
MatrixBuffer<float> pick_pairs(Matrix<const float> from, InputOrder order);

}  // namespace grinqh
