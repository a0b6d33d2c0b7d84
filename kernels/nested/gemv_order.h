// The order in which the decoding kernel reads layers of layout "nested": tiles of outputs one after another,
// in a tile digit planes one after another, in a plane a row of digits for every input channel. What a token
// does not read of a channel is rows that are not fetched. (Also read by device code: raw numbers only.)
//
// A digit has two bits wherever no level lies between them, else one. A row is 32-bit words, as the tensor
// cores take them: four outputs of one channel in one operand register.
//   2 bits   output 64 b + 16 d + 8 h + g of a tile is digit d of byte b of word 2 g + h
//   1 bit    output 64 b + 16 d + 8 h + g of a tile is bit 2 d + h of byte b of word g
#pragma once

#include <cstdint>

namespace grinqh {

struct NestedOrder {
  static constexpr int kTile = 256;  // outputs
  static constexpr int kStep = 8;    // channels of a product
  static constexpr int kMaxPlanes = 8;
  static constexpr int kBitBytes = kTile / 8;  // of a row for each bit of its digits

  int in = 0, padded_in = 0;
  int planes = 0;
  // Plane p holds bits begin .. end - 1 of the codes, the most significant bit being 0.
  uint8_t begin[kMaxPlanes] = {}, end[kMaxPlanes] = {};

  constexpr int bits(int plane) const { return end[plane] - begin[plane]; }
  constexpr int row_bytes(int plane) const { return bits(plane) * kBitBytes; }
  constexpr int64_t plane_at(int plane) const { return int64_t{begin[plane]} * padded_in * kBitBytes; }
  constexpr int64_t tile_bytes() const {
    return planes == 0 ? 0 : int64_t{end[planes - 1]} * padded_in * kBitBytes;
  }
};

}  // namespace grinqh
