// A stage: rows of a list copied into the ring, the integers that belong to them, their product.
#pragma once

#include "kernels/common/async_copy.cuh"
#include "kernels/common/byte_products.cuh"
#include "kernels/nested/gemv_shape.cuh"

namespace grinqh::cuda::nested {

// What a thread needs to know of a stage; the same for all threads.
struct Stage {
  bool pairs;       // 2-bit digits
  int first, rows;  // entries
};
template <class S>
__device__ inline Stage stage_of(int index, int stages2) {
  if (index < stages2) return {true, index * S::kRows2, S::kRows2};
  return {false, stages2 * S::kRows2 + (index - stages2) * S::kRows1, S::kRows1};
}

// Entries: channel of the list | part << 9 | plane << 11.
__device__ inline int entry_channel(uint32_t entry) { return static_cast<int>(entry & 511); }
__device__ inline int entry_part(uint32_t entry) { return static_cast<int>(entry >> 9 & 3); }
__device__ inline int entry_plane(uint32_t entry) { return static_cast<int>(entry >> 11 & 7); }

// Ends a group of copies.
template <class S>
__device__ inline void fetch(const NestedGemvWeights& weights, const Span& span, const uint16_t* entries,
                             const Stage& stage, uint32_t to) {
  const uint8_t* tile = weights.digits + int64_t{span.tile} * weights.tile_bytes;
  const int per_row = stage.pairs ? 2 * S::kAcross : S::kAcross;  // pieces of 16 bytes
  const int stride = stage.pairs ? S::kStride2 : S::kStride1;
  const int shift = stage.pairs ? __ffs(2 * S::kAcross) - 1 : __ffs(S::kAcross) - 1;
  const int piece = threadIdx.x & (per_row - 1);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int row = (threadIdx.x + i * kThreads) >> shift;
    const uint32_t entry = entries[stage.first + row];
    const bool valid = entry != kNoRow;
    const int at = valid ? weights.planes.offset[entry_plane(entry)] +
                               ((span.begin + entry_channel(entry)) * per_row + piece) * 16
                         : 0;
    copy_async_16(to + row * stride + piece * 16, tile + at, valid);
  }
  end_copies();
}

// Byte of an integer that a plane multiplies by, shifted for what its digits are worth.
__device__ inline uint32_t byte_of(int integer, int shift, bool high) {
  const int value = (integer + ((1 << shift) >> 1)) >> shift;
  return static_cast<uint32_t>(high ? value + 128 >> 8 : value);
}

// The b operands of a stage's steps; a lane's eight bytes are rows lane % 4 + 4 i of a step, i ascending.
// A barrier must follow before they are read.
template <class S>
__device__ inline void write_factors(const NestedDigitPlanes& planes, const List<S>& list, const Stage& stage,
                                     uint8_t* factors) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const auto reads = [&](int token, uint32_t entry) {
    return S::kTokens == 1 ||
           planes.end[entry_plane(entry)] <= list.levels[token * S::kChannels + entry_channel(entry)];
  };
  if constexpr (S::kByInput) {  // a warp writes byte `warp` of every lane
    const int column = lane / 4, part = column / 2 / S::kTogether, first = column / 2 % S::kTogether;
    for (int step = 0; step * 32 < stage.rows; ++step) {
      const uint32_t entry = list.entries[stage.first + step * 32 + warp * 4 + lane % 4];
#pragma unroll
      for (int n = 0; n < S::kProducts; ++n) {
        const int token = first + n * S::kTogether;
        uint32_t byte = 0;
        if (entry != kNoRow && entry_part(entry) == part && reads(token, entry))
          byte = byte_of(list.integers[token * S::kChannels + entry_channel(entry)],
                         planes.end[entry_plane(entry)] - planes.first_end, column % 2 == 0);
        factors[step * S::kFactorBytes + n * S::kColumnBytes + lane * 8 + warp] = static_cast<uint8_t>(byte);
      }
    }
  } else {  // a warp writes what it will read
    const int across = warp % S::kAcross;
    for (int step = warp / S::kAcross; step * 32 < stage.rows; step += S::kDeep) {
      const uint32_t entry = list.entries[stage.first + step * 32 + lane];
      uint8_t* to = factors + step * S::kFactorBytes + across * S::kProducts * S::kColumnBytes +
                    lane % 4 * 8 + lane / 4;
#pragma unroll
      for (int t = 0; t < S::kTokens; ++t) {
        uint32_t high = 0, low = 0;
        if (entry != kNoRow && reads(t, entry)) {
          const int integer = list.integers[(across * S::kTokens + t) * S::kChannels + entry_channel(entry)];
          const int shift = planes.end[entry_plane(entry)] - planes.first_end;
          high = byte_of(integer, shift, true);
          low = byte_of(integer, shift, false);
        }
        uint8_t* column = to + t / S::kTogether * S::kColumnBytes + t % S::kTogether * 64;
        column[0] = static_cast<uint8_t>(high);
        column[32] = static_cast<uint8_t>(low);
      }
    }
  }
}

template <class S>
struct Sum {
  int32_t of[S::kProducts][8][4];  // tile of 16 outputs: byte i / 2 of a word, digits 2 (i % 2) and the next

  __device__ void clear() {
#pragma unroll
    for (int n = 0; n < S::kProducts; ++n)
#pragma unroll
      for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int k = 0; k < 4; ++k) of[n][i][k] = 0;
  }
};

template <class S>
__device__ inline void read_factors(const uint8_t* factors, int step, uint2 (&b)[S::kProducts]) {
  const int lane = threadIdx.x % 32, across = threadIdx.x / 32 % S::kAcross;
  const uint8_t* from = factors + step * S::kFactorBytes +
                        (S::kByInput ? 0 : across * S::kProducts * S::kColumnBytes) + lane * 8;
#pragma unroll
  for (int n = 0; n < S::kProducts; ++n) {
    b[n] = {0, 0};
    if (S::kByInput || lane < 8 * S::kTogether)
      b[n] = *reinterpret_cast<const uint2*>(from + n * S::kColumnBytes);
  }
}

// Digits stay where they lie in their byte, so a digit d of a byte is worth 4^d of itself in all sums.
template <class S>
__device__ inline void multiply(const uint8_t* rows, const uint8_t* factors, const Stage& stage,
                                Sum<S>& sum) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int across = warp % S::kAcross, deep = warp / S::kAcross;
  constexpr uint32_t kPair = 0x03030303u, kBit = 0x01010101u;
  if (stage.pairs) {
    uint2 b[S::kProducts];
    read_factors<S>(factors, deep, b);
    const uint8_t* from = rows + (deep * 32 + lane % 4) * S::kStride2 + across * 32 + lane / 4 * 4;
    uint32_t low[4], high[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      low[i] = *reinterpret_cast<const uint32_t*>(from + 4 * i * S::kStride2);
      high[i] = *reinterpret_cast<const uint32_t*>(from + (16 + 4 * i) * S::kStride2);
    }
    transpose_bytes(low);
    transpose_bytes(high);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int shift = 4 * (i % 2);
#pragma unroll
      for (int n = 0; n < S::kProducts; ++n)
        add_product(sum.of[n][i], low[i / 2] & kPair << shift, low[i / 2] & kPair << (shift + 2),
                    high[i / 2] & kPair << shift, high[i / 2] & kPair << (shift + 2), b[n]);
    }
    return;
  }
#pragma unroll
  for (int turn = 0; turn < 2; ++turn) {
    const int step = deep + turn * S::kDeep;
    uint2 b[S::kProducts];
    read_factors<S>(factors, step, b);
    const uint8_t* from = rows + (step * 32 + lane % 4) * S::kStride1 + across * 16 + lane / 4 * 2;
    uint32_t low[4], high[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      low[i] = *reinterpret_cast<const uint16_t*>(from + 4 * i * S::kStride1);
      high[i] = *reinterpret_cast<const uint16_t*>(from + (16 + 4 * i) * S::kStride1);
    }
    transpose_bytes(low);
    transpose_bytes(high);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int shift = 4 * (i % 2);
      const uint32_t left = low[i / 4] >> i / 2 % 2, right = high[i / 4] >> i / 2 % 2;
#pragma unroll
      for (int n = 0; n < S::kProducts; ++n)
        add_product(sum.of[n][i], left & kBit << shift, left & kBit << (shift + 2), right & kBit << shift,
                    right & kBit << (shift + 2), b[n]);
    }
  }
}

}  // namespace grinqh::cuda::nested
