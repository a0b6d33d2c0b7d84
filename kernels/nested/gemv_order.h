// The order in which the decoding kernel reads layers of layout "nested": tiles of outputs one after another,
// in a tile digit planes one after another, in a plane a row of digits for every input channel. What a token
// does not read of a channel is rows that are not fetched. (Also read by device code: raw numbers only.)
//
// A digit has two bits wherever no level lies between them, else one. A row holds, for each of the tile's
// parts of 128 outputs, their digits in units of two bytes:
//   2 bits   output 64 h + 8 g + 4 b + d of a part is digit d of byte b of unit 8 h + g
//   1 bit    output 64 h + 8 g + 4 b + d of a part is bit 2 d + h of byte b of unit g
#pragma once

#include <cstdint>

namespace grinqh {

struct NestedOrder {
  static constexpr int kPart = 128;  // outputs of a warp
  static constexpr int kBlock = 32;  // channels of a product
  static constexpr int kMaxPlanes = 8;
  static constexpr int kBitBytes = kPart / 8;  // of a part's row for each bit of its digits

  int across = 1;  // parts of a tile: 1, 2 or 4
  int in = 0, padded_in = 0;
  int planes = 0;
  // Plane p holds bits begin .. end - 1 of the codes, the most significant bit being 0.
  uint8_t begin[kMaxPlanes] = {}, end[kMaxPlanes] = {};

  constexpr int tile() const { return across * kPart; }
  constexpr int bits(int plane) const { return end[plane] - begin[plane]; }
  constexpr int bit_bytes() const { return across * kBitBytes; }  // of a row, for each bit of its digits
  constexpr int row_bytes(int plane) const { return bits(plane) * bit_bytes(); }
  constexpr int64_t plane_at(int plane) const { return int64_t{begin[plane]} * padded_in * bit_bytes(); }
  constexpr int64_t tile_bytes() const {
    return planes == 0 ? 0 : int64_t{end[planes - 1]} * padded_in * bit_bytes();
  }
};

}  // namespace grinqh
