// A layer as methods with error feedback take it: an input that is always zero has no weights and a second
// moment of one, and the columns lie in the order of rounding.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "core/cholesky.h"
#include "core/matrix.h"
#include "quant/stats.h"

namespace grinqh {

// order: [in], the input of each place; empty: as they are.
using InputOrder = std::span<const int64_t>;

struct LiveLayer {
  MatrixBuffer<float> weight;   // [out, in]
  MatrixBuffer<float> moments;  // [in, in]
};
// second_moment: [in, in], as collected.
LiveLayer live_layer(Matrix<const float> weight, std::span<const float> second_moment, InputOrder order = {});

// The weights alone: as they are if nothing changes, or in `storage`.
Matrix<const float> live_weight(Matrix<const float> weight, std::span<const float> second_moment,
                                InputOrder order, MatrixBuffer<float>& storage);
// The second moments alone.
MatrixBuffer<float> live_moments(std::span<const float> second_moment, int64_t in, InputOrder order = {});

// inverse_cholesky() of the layer's second moments in the inputs' own order; `statistic` names them.
std::shared_ptr<const InverseFactor> live_factor(const LayerStats& stats, std::string_view statistic,
                                                 int64_t in, double damping);

// to(r, i) = from(r, order[i]).
MatrixBuffer<float> pick_columns(Matrix<const float> from, InputOrder order);
// to(i, j) = from(order[i], order[j]).
MatrixBuffer<float> pick_pairs(Matrix<const float> from, InputOrder order);

}  // namespace grinqh
