// Integers of several tokens' inputs as operand B of the tensor cores: a token has two columns, of high and
// of low bytes, and the inner indices are 32 channels. So all tokens share the digits in operand A, which are
// transposed for it (gemv_token_products.cuh).
#pragma once

#include "kernels/nested/gemv_warp.cuh"

namespace grinqh::cuda::nested {

// Where the places that a lane multiplies stand among those of their step, 32 of them: a chunk of eight for
// each t. Chunks are in another order every second step, so that lanes that store neighbours do so to other
// banks.
constexpr int kTokenStep = 32;
__device__ inline uint32_t token_chunk(uint32_t step, uint32_t t) { return (t ^ (step / 2 & 3u)) * 8; }
// Place 16 half + 4 i + t of a step is 4 half + i of its chunk.
__device__ inline uint32_t token_place(uint32_t place) {
  const uint32_t step = place / kTokenStep;
  return step * kTokenStep + token_chunk(step, place % 4) + place / 16 % 2 * 4 + place / 4 % 4;
}

// How a lane reads operand B: of its token, bytes of the places t, t + 4, t + 8, t + 12 and of those 16
// behind them, for each column of scales.
template <class S>
struct TokenColumns {
  static constexpr int kColumnBytes = S::kPlaces * 2;  // integers of a token for a column of scales

  uint32_t integers, planes;  // shared addresses, of its token
  uint32_t selector;          // of high or of low bytes,
  uint32_t signs;             // which are signed once their highest bit is turned over
  uint32_t t, next = 0;       // step
  bool checks;  // whether the token may have fewer planes than others (else it has all, or inputs of 0)

  // listed: of the list's places, else of the unit's channels.
  __device__ TokenColumns(const Warp<S>& warp, bool listed) {
    const int column = warp.lane / 4, token = column / 2;
    t = warp.lane % 4;
    integers = shared_address(warp.integers(listed, token));
    planes = shared_address(warp.planes(token));
    selector = column % 2 == 0 ? 0x7531u : 0x6420u;
    signs = column % 2 == 0 ? 0u : 0x80808080u;
    checks = listed;
  }

  __device__ void advance(int places) { next += places / kTokenStep; }
  // step: from the next one on.
  __device__ void load(int step, int plane, uint2 (&b)[S::kColumns]) const {
    const uint32_t at = (next + step) * kTokenStep + token_chunk(next + step, t);
    uint2 has = {0xffffffffu, 0xffffffffu};
    if (checks) {
      const uint2 of_places = load_pair(planes + at);
      has = {more_than(of_places.x, plane), more_than(of_places.y, plane)};
    }
#pragma unroll
    for (int j = 0; j < S::kColumns; ++j) {
      const uint4 four = load_four(integers + j * kColumnBytes + at * 2);
      b[j] = {(__byte_perm(four.x, four.y, selector) ^ signs) & has.x,
              (__byte_perm(four.z, four.w, selector) ^ signs) & has.y};
    }
  }

 private:
  // Bytes of ones where those of `planes` are more than `plane`: bit 7 of a sum, replicated.
  __device__ static uint32_t more_than(uint32_t planes, int plane) {
    uint32_t mask;
    asm("prmt.b32 %0, %1, 0, 0xba98;" : "=r"(mask) : "r"(planes + (127u - plane) * 0x01010101u));
    return mask;
  }
};

}  // namespace grinqh::cuda::nested
