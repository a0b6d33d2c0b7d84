// What a warp does with a unit: dense ones by the tensor cores, outliers one by one.
//
// Inputs are 16-bit integers with a scale a group, as a high and a low signed byte; the tensor cores sum
// products with the codes exactly. A code is used where it lies in its byte: one AND takes the codes of a
// step, zeros lie as high, and what the place multiplies by is taken off the input's scale beforehand.
//
// Of T = 1, 2 or 4 tokens, 4 / T groups make a set that has a product of its own: the two bytes of group q of
// it and token i have columns 2 (q T + i) and one more, zeros where the other groups' inputs are. Lane 4 g +
// t ends with the sums of group t / T of a set, token t % T, outputs g and g + 8, which it scales.
#pragma once

#include "cuda/byte_products.cuh"
#include "kernels/aligned_2_4_16/gemv_scales.cuh"

namespace grinqh::cuda {

// The inputs of a unit as this block made them.
struct UnitInputs {
  const uint8_t* x;
  const float* scales;
  const int* sums;  // negative
  int slots;        // between tokens
};

// Adds a unit's products to y of outputs g and g + 8: of this lane's groups and its token. `then` runs when
// the unit has been read.
template <bool kWide, int kTokens, class Then>
__device__ void multiply_unit(const uint8_t* unit, const UnitInputs& input, int lane, float (&y)[2],
                              const Then& then) {
  constexpr int kSteps = kWide ? Aligned2416Order::kWideSteps : Aligned2416Order::kNarrowSteps;
  constexpr int kBits = GroupScales<kWide>::kCodeBits;
  constexpr int kSets = kTokens, kOfSet = 4 / kTokens;  // groups
  const int g = lane / 4, q = lane % 4 / kTokens, token = lane % 4 % kTokens;
  uint32_t codes[2][4];
  load_words(unit + lane * 16, codes[0]);
  load_words(unit + 512 + lane * 16, codes[1]);
  GroupScales<kWide> scales[kSets];
#pragma unroll
  for (int set = 0; set < kSets; ++set) scales[set].load(unit, g, set * kOfSet + q);
  then();
  uint32_t x[kSets][kSteps], factors[kSets][kSteps], sums[kSets][kSteps];
#pragma unroll
  for (int set = 0; set < kSets; ++set) {
    const int info = (set * kOfSet + q) * kSteps + token * input.slots;
    load_words(input.x + (set * 32 + lane) * kSteps * 4, x[set]);
    load_words(reinterpret_cast<const uint8_t*>(input.scales + info), factors[set]);
    load_words(reinterpret_cast<const uint8_t*>(input.sums + info), sums[set]);
  }
  constexpr uint32_t kCodes = kWide ? 0x0f0f0f0fu : 0x03030303u;
  const int mine = lane / 8 / kTokens;  // the group of a set whose columns this lane's inputs are
  const auto multiply = [&](int set, int j, int(&c)[4]) {
    const uint32_t mask = kCodes << kBits * j, x_of = x[set][j];
    if constexpr (kOfSet == 1) {
      const auto& of = codes[set / 2];
      const int at = set % 2 * 2;
      add_byte_product(c, of[at] & mask, of[at + 1] & mask, 0u, 0u, x_of, 0u);
    } else {
#pragma unroll
      for (int first = 0; first < kOfSet; first += 2) {
        const auto& of = codes[(set * kOfSet + first) / 2];
        add_byte_product(c, of[0] & mask, of[1] & mask, of[2] & mask, of[3] & mask, mine == first ? x_of : 0u,
                         mine == first + 1 ? x_of : 0u);
      }
    }
  };
  const auto add = [&](int set, int j, const int(&c)[4]) {
    int zero[2];
    float scale[2];
    scales[set].take(j, __uint_as_float(factors[set][j]), zero, scale);
    const int sum = static_cast<int>(sums[set][j]);
    y[0] = fmaf(static_cast<float>(c[0] * 256 + c[1] + zero[0] * sum), scale[0], y[0]);
    y[1] = fmaf(static_cast<float>(c[2] * 256 + c[3] + zero[1] * sum), scale[1], y[1]);
  };
  constexpr int kAhead = 2;  // steps whose products are under way together
#pragma unroll
  for (int set = 0; set < kSets; ++set)
#pragma unroll
    for (int first = 0; first < kSteps; first += kAhead) {
      int c[kAhead][4] = {};
#pragma unroll
      for (int i = 0; i < kAhead; ++i) multiply(set, first + i, c[i]);
#pragma unroll
      for (int i = 0; i < kAhead; ++i) add(set, first + i, c[i]);
    }
}

// Of a unit of outliers, lanes 2 n and 2 n + 1 take those of output n, every other one.
template <int kTokens>
__device__ void add_outliers(const uint8_t* unit, const UnitInputs& input, int lane, float (&y)[2]) {
  const int output = lane / 2;
  const int first = output == 0 ? 0 : shared_value<uint16_t>(unit + (output - 1) * 2);
  const int end = shared_value<uint16_t>(unit + output * 2);
  float sums[kTokens] = {};
  constexpr int kBatch = kTokens == 1 ? 4 : 2;  // under way together
  for (int batch = first + lane % 2; batch < end; batch += 2 * kBatch) {
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int at = batch + 2 * i;
      const uint32_t pair =
          at < end ? shared_value<uint32_t>(unit + Aligned2416Order::kEnds + at * 4) : 0;  // 0 times x
      const uint32_t index = pair & 0xffffu, step = index >> 2 & 3;
      // Of the scale's power of two, what is beyond kKeptPower is taken off in two parts: one would be
      // subnormal.
      constexpr int kPart = -75;
      const int power = kKeptPower - GroupScales<false>::input_power(static_cast<int>(step));
      const float value = float_of_half(static_cast<uint16_t>(pair >> 16)) * power_of_two(power - kPart);
      const uint8_t* x = input.x + (index >> 6) * (128 * kTokens) + (index & 63);
      const float* scale = input.scales + (index >> 6) * 4 + step;
#pragma unroll
      for (int token = 0; token < kTokens; ++token) {
        const int high = shared_value<int8_t>(x + token * 128),
                  low = shared_value<int8_t>(x + token * 128 + 64);
        sums[token] =
            fmaf(static_cast<float>(high * 256 + low) * (scale[token * input.slots] * power_of_two(kPart)),
                 value, sums[token]);
      }
    }
  }
#pragma unroll
  for (int token = 0; token < kTokens; ++token) {
    const float both = sums[token] + __shfl_xor_sync(kAllLanes, sums[token], 1);
    const float lower = __shfl_sync(kAllLanes, both, lane / 4 * 2),
                upper = __shfl_sync(kAllLanes, both, lane / 4 * 2 + 16);
    if (lane % 4 != token) continue;
    y[0] += lower;
    y[1] += upper;
  }
}

}  // namespace grinqh::cuda
