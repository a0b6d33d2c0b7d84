// A token's inputs as 16-bit integers, cut into bit planes as the tensor cores take them for the other factor
// of binary products. Every warp makes a slice of chunks; the greatest input of all makes the scale, which
// all chunks have in common.
//
// A chunk of 256 inputs is 512 bytes: lane 4 n + t of a warp finds words t and 4 + t of column n of either
// half h beside each other. Column n = 2 (j / 4) + j % 2 of half j / 2 % 2 is bit j of the integers: so a
// lane's four sums of an output are those of four neighbouring bits, and 16^t is common to them.
#pragma once

#include "cuda/gemv_operands.cuh"

namespace grinqh::cuda {

constexpr int kBitPlanes = 16;
constexpr int kInputBytes = 512;     // of a chunk, all bit planes
constexpr float kMostInput = 32766;  // the greatest integer; one is left for rounding
constexpr int kHeldChunks = 4;       // whose inputs a warp holds in registers between measuring and cutting

// 8 x 8 bits: byte i of (low, high) holds value i; then byte p holds bit p of all, that of value i at i.
__device__ inline void transpose8(uint32_t& low, uint32_t& high) {
  const auto within = [](uint32_t x) {
    uint32_t t = (x ^ x >> 7) & 0x00aa00aau;
    x ^= t ^ t << 7;
    t = (x ^ x >> 14) & 0x0000ccccu;
    return x ^ t ^ t << 14;
  };
  const uint32_t a = within(low), b = within(high);
  low = (a & 0x0f0f0f0fu) | (b << 4 & 0xf0f0f0f0u);
  high = (a >> 4 & 0x0f0f0f0fu) | (b & 0xf0f0f0f0u);
}

// Eight inputs of lane `lane` to a chunk's planes, and as integers to `numbers` unless it is null.
__device__ inline void store_planes(const float (&v)[8], float inverse, int lane, uint8_t* chunk,
                                    int16_t* numbers) {
  constexpr float kRound = 12582912.0f;  // 1.5 2^23: the low bits of a sum are the other's nearest integer
  uint32_t pairs[4], low[2], high[2];
#pragma unroll
  for (int i = 0; i < 4; ++i)
    pairs[i] = __byte_perm(__float_as_uint(fmaf(v[2 * i], inverse, kRound)),
                           __float_as_uint(fmaf(v[2 * i + 1], inverse, kRound)), 0x5410);
  if (numbers != nullptr)
    *reinterpret_cast<uint4*>(numbers + lane * 8) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    low[i] = __byte_perm(pairs[2 * i], pairs[2 * i + 1], 0x6420);
    high[i] = __byte_perm(pairs[2 * i], pairs[2 * i + 1], 0x7531);
  }
  transpose8(low[0], low[1]);
  transpose8(high[0], high[1]);
  uint8_t* to = chunk + lane / 4 % 4 * 16 + lane / 16 * 4 + lane % 4;
#pragma unroll
  for (int j = 0; j < kBitPlanes; ++j) {
    const uint32_t four = (j < 8 ? low : high)[j / 4 % 2];
    to[(j / 4 * 2 + j % 2) * 64 + j / 2 % 2 * 8] = static_cast<uint8_t>(four >> j % 4 * 8);
  }
}

// Chunks first .. first + count - 1 of a token, count <= kHeldChunks; entries beyond repeat the last chunk.
// Adds the squares of x as it lies there to `squares`.
template <class T>
__device__ void load_chunks(const GemvInput& input, int in, int token, int first, int count, int lane,
                            float (&v)[kHeldChunks][8], float& squares) {
  if ((first + count) * 256 > in) {  // the row ends here
#pragma unroll
    for (int j = 0; j < kHeldChunks; ++j) {
      const int item = (first + min(j, count - 1)) * 32 + lane;
      if (j < count && input.form == GemvInput::Form::rms_norm) {
        float raw[8];
        load8_part(input_row<T>(input, token) + item * 8, max(0, min(8, in - item * 8)), raw);
#pragma unroll
        for (int i = 0; i < 8; ++i) squares = fmaf(raw[i], raw[i], squares);
      }
      load_inputs<T>(input, in, token, item, 1.0f, v[j]);
    }
    return;
  }
  const auto at = [&](int j) { return ((first + min(j, count - 1)) * 32 + lane) * 8; };
  const T* x = input_row<T>(input, token);
#pragma unroll
  for (int j = 0; j < kHeldChunks; ++j) load8(x + at(j)).unpack(v[j]);
  if (input.form == GemvInput::Form::rms_norm) {
#pragma unroll
    for (int j = 0; j < kHeldChunks; ++j) {
      float weight[8];
      load8(input.norm_weight + at(j)).unpack(weight);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        if (j < count) squares = fmaf(v[j][i], v[j][i], squares);
        v[j][i] *= weight[i];
      }
    }
  } else if (input.form == GemvInput::Form::swiglu) {
#pragma unroll
    for (int j = 0; j < kHeldChunks; ++j) {
      float up[8];
      load8(x + in + at(j)).unpack(up);
#pragma unroll
      for (int i = 0; i < 8; ++i) v[j][i] = v[j][i] / (1.0f + __expf(-v[j][i])) * up[i];
    }
  }
}

// What is left for later factors: y's scale, and the slice's sum of squares of x.
struct SliceScale {
  float scale, squares;
};

// Chunks first .. first + count - 1 of a token, maybe none. planes, numbers (or null): of the token's chunk
// 0. For a whole warp; greatest_of_all(bits of the slice's greatest magnitude) says that of the whole token.
template <class T, class GreatestOfAll>
__device__ SliceScale make_slice(const GemvInput& input, int in, int token, int first, int count, int lane,
                                 uint8_t* planes, int16_t* numbers, const GreatestOfAll& greatest_of_all) {
  float v[kHeldChunks][8], squares = 0;
  uint32_t most = 0;  // bits, so that what is not finite stays so
  for (int done = 0; done < count; done += kHeldChunks) {
    load_chunks<T>(input, in, token, first + done, min(kHeldChunks, count - done), lane, v, squares);
#pragma unroll
    for (int j = 0; j < kHeldChunks; ++j)
#pragma unroll
      for (int i = 0; i < 8; ++i) most = max(most, __float_as_uint(v[j][i]) & 0x7fffffffu);
  }
  most = greatest_of_all(__reduce_max_sync(0xffffffffu, most));
  if (input.form == GemvInput::Form::rms_norm)
    for (int other = 16; other > 0; other /= 2) squares += __shfl_xor_sync(0xffffffffu, squares, other);
  const float greatest = __uint_as_float(most);
  // Below the smallest normal numbers the inverse would not be finite.
  const float inverse = greatest > 1e-30f ? __fdividef(kMostInput, greatest) : 0.0f;
  for (int done = 0; done < count; done += kHeldChunks) {
    const int some = min(kHeldChunks, count - done);
    float again = 0;
    if (count > kHeldChunks) load_chunks<T>(input, in, token, first + done, some, lane, v, again);
#pragma unroll
    for (int j = 0; j < kHeldChunks; ++j) {
      const int chunk = first + done + j;
      if (j < some)
        store_planes(v[j], inverse, lane, planes + chunk * kInputBytes,
                     numbers == nullptr ? nullptr : numbers + chunk * 256);
    }
  }
  return {greatest * (1.0f / kMostInput), squares};
}

}  // namespace grinqh::cuda
