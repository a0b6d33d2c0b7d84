// The order in which the decoding kernel reads a layer of layout "lut_planes": chunks of 16 outputs x 256
// inputs x all planes, the chunks of 16 outputs one after another. (Also read by device code: raw numbers
// only.)
//
//   chunks   [ceil(out / 16)][ceil(in / 256)][plane][lane] four words of 32 inputs: what one product of 16
//            outputs x 256 inputs on the tensor cores takes from a lane, word for word as the layout has
//            them. The planes of a level are one run of bytes in a chunk.
//   tables   float16; for each level b > 0, ascending: [ceil(out / 16) * 16][2^b]
//   outlier_codes  uint8 [outliers]: the code that an outlier stands in place of, its first bit highest
//
// Outliers otherwise are as the layout has them.
#pragma once

#include <cstdint>

namespace grinqh {

struct PlanesOrder {
  static constexpr int kOutputs = 16, kInputs = 256, kLanes = 32;
  static constexpr int kWords = kInputs / 32;                 // of a row and a plane in a chunk
  static constexpr int kPlaneBytes = kOutputs * kInputs / 8;  // of a chunk

  // Of word `word` (0..3) of a lane.
  static constexpr int output_of(int lane, int word) { return lane / 4 + word % 2 * 8; }
  static constexpr int word_of(int lane, int word) { return lane % 4 + word / 2 * 4; }
};

}  // namespace grinqh
