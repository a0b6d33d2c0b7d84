// The order in which the decoding kernel reads a layer of layout "aligned_2_4_16": units of 16 outputs (one
// block of rows, so that second-order scales are shared by all of them) that hold all that they need, one
// behind another: of 16 narrow groups, then of 8 wide ones, then the outliers of these outputs. (Also read by
// device code: raw numbers only.)
//
//   codes     1024 bytes, each with the codes of `steps` products of 16 outputs x 64 inputs on the tensor
//             cores: code j bits * j upwards is that of step j. Lane 4 g + t of a warp has eight words; word
//             4 m + 2 h + r holds output g + 8 r, inputs 4 t .. 4 t + 3 of group q = 2 m + h of a step.
//             Vector m of a lane, its words 4 m .. 4 m + 3, lies at 512 m + 16 lane.
//   zeros     [lane][r] bytes: of output g + 8 r, group q = t, that of step j at bits * j
//   narrow    scale codes uint16 [lane][r], that of step j at 4 j; second scales float16 [t][j]; second zeros
//             uint16 [t], that of step j at 4 j; 24 bytes of nothing
//   wide      scales float16 [lane][j][r]; 64 bytes of nothing
//   outliers  ends uint16 [16], counted from the unit's first, then pairs of uint16 index and float16 value,
//             output after output. If there are several units, each has an equal share of every output's.
#pragma once

#include <cstdint>

#include "core/host_device.h"

namespace grinqh {

struct Aligned2416Order {
  static constexpr int kOutputs = 16, kLanes = 32, kGroup = 16;
  static constexpr int kNarrowSteps = 4, kWideSteps = 2;
  static constexpr int kNarrowGroups = 4 * kNarrowSteps, kWideGroups = 4 * kWideSteps;  // of a unit
  static constexpr int kZeros = 1024, kScales = kZeros + 64;                            // offsets in a unit
  static constexpr int kSecondScales = kScales + 128, kSecondZeros = kSecondScales + 32;
  // Units begin at multiples of 128 bytes: copies of other runs cost memory traffic around their ends.
  static constexpr int kAlignment = 128, kNarrowBytes = 1280, kWideBytes = 1408;
  // So many outliers are as much work as a dense unit.
  static constexpr int kEnds = 2 * kOutputs, kMostOutliers = (kWideBytes / 2 - kEnds) / 4;

  int narrow_units = 0, wide_units = 0;  // of 16 outputs

  // Slots number the groups in this order; some of the last of either kind are empty.
  GRINQH_BOTH constexpr int narrow_slots() const { return narrow_units * kNarrowGroups; }
  GRINQH_BOTH constexpr int slots() const { return narrow_slots() + wide_units * kWideGroups; }
  GRINQH_BOTH constexpr int dense_units() const { return narrow_units + wide_units; }
  // From the beginning of 16 outputs. Units of outliers share the rest evenly.
  GRINQH_BOTH constexpr int begin_of(int dense_unit) const {
    return dense_unit < narrow_units ? dense_unit * kNarrowBytes
                                     : narrow_units * kNarrowBytes + (dense_unit - narrow_units) * kWideBytes;
  }
  // Its first slot.
  GRINQH_BOTH constexpr int slot_of(int dense_unit) const {
    return dense_unit < narrow_units ? dense_unit * kNarrowGroups
                                     : narrow_slots() + (dense_unit - narrow_units) * kWideGroups;
  }
  GRINQH_BOTH constexpr int dense_bytes() const { return begin_of(dense_units()); }

  // Where a slot is in its unit.
  struct Place {
    int first, q, step, steps;  // the unit's first slot
  };
  GRINQH_BOTH constexpr Place place_of(int slot) const {
    if (slot < narrow_slots()) return {slot & ~15, slot >> 2 & 3, slot & 3, kNarrowSteps};
    return {slot & ~7, slot >> 1 & 3, slot & 1, kWideSteps};
  }
  // Of an outlier; input: within the group of a narrow slot.
  static constexpr int outlier_index(int slot, int input) {
    return (slot >> 2) * 64 + (input >> 2) * 16 + (slot & 3) * 4 + (input & 3);
  }
};

}  // namespace grinqh
