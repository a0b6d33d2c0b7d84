// Levels from magnitudes: the inner loop of graded precision, for one token.
#pragma once

#include <span>

#include "core/matrix.h"
#include "quant/precision.h"

namespace grinqh {

// levels[i] = base + sum of increments[j] over the steps j with |x[i]| not at or below thresholds(j, i): what
// is not a number is read, so that it shows. x, levels: [in]; thresholds: [steps, in]; increments: [steps].
void grade(std::span<const float> x, Matrix<const float> thresholds, std::span<const Level> increments,
           Level base, std::span<Level> levels);

}  // namespace grinqh
