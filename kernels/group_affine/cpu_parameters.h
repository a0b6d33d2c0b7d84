// Scales and zero points as the CPU's decoding kernels have them.
#pragma once

#include "kernels/group_affine/cpu_order.h"
#include "kernels/group_affine/fields.h"

namespace grinqh::group_affine {

// Those of row `row`, group `g`, to place `to` of the kernel's.
inline void copy_parameters(const GroupAffineFields& source, int64_t row, int64_t g, Zeros kind, int64_t to,
                            uint16_t* scales, uint8_t* zeros) {
  scales[to] = source.scale(row, g);
  if (kind == Zeros::bytes) {
    zeros[to] = static_cast<uint8_t>(source.integer_zero(row, g));
  } else if (kind == Zeros::halves) {
    const uint16_t zero = source.real_zero(row, g);
    std::memcpy(zeros + to * 2, &zero, 2);
  }
}

}  // namespace grinqh::group_affine
