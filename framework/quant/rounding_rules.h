// How one weight is rounded, as plain data and small functions that the CPU and device code compile alike, so
// that both give the same codes. No product is fused with a sum: the intrinsics below forbid it on devices,
// and the CPU code is built for processors without fused instructions.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/half.h"
#include "core/host_device.h"

namespace grinqh {

GRINQH_BOTH inline float product_of(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

// The nearest integer, ties to even, as nearbyint() gives it.
GRINQH_BOTH inline float nearest_integer(float value) {
#ifdef __CUDA_ARCH__
  return rintf(value);
#else
  constexpr float kShift = 0x1.8p23f;  // beside it a float32 has no fraction left
  return fabsf(value) < 0x1p22f ? (value + kShift) - kShift : nearbyintf(value);
#endif
}

GRINQH_BOTH inline float clamped(float value, float low, float high) {
  return value < low ? low : high < value ? high : value;
}

// An affine grid: code c stands for scale (c - zero). The rule is the one of the GPTQ authors' quantizer:
// asymmetric ranges always include zero.
struct AffineGrid {
  uint16_t scale;  // float16, as it is stored; infinite if it does not fit
  uint8_t zero;
};

// The widths of codes, and how a group's range becomes a grid.
struct AffineRule {
  int bits;
  bool symmetric;
  // Shares 1, 1 - 1/share_steps, ... of the range are tried for the least sum of |weight - decoded|^norm;
  // one: the range as it is.
  int shares, share_steps;
  float norm;

  GRINQH_BOTH float top_code() const { return static_cast<float>((1 << bits) - 1); }
};

GRINQH_BOTH inline float affine_code(float value, float scale, float zero, float top) {
  return clamped(nearest_integer(value / scale) + zero, 0.0f, top);
}

GRINQH_BOTH inline float affine_value(float code, float scale, float zero) {
  return product_of(scale, code - zero);
}

// What a weight becomes.
GRINQH_BOTH inline float affine_rounded(float value, float scale, float zero, float top) {
  return affine_value(affine_code(value, scale, zero, top), scale, zero);
}

// The same of a weight that is multiplied before rounding and divided after it.
GRINQH_BOTH inline float scaled_rounded(float weight, float factor, float scale, float zero, float top) {
  return affine_rounded(product_of(weight, factor), scale, zero, top) / factor;
}

// What a weight is off by if it is clamped to [-limit, limit] before rounding.
GRINQH_BOTH inline float clipped_error(float weight, float limit, float scale, float zero, float top) {
  return weight - affine_rounded(clamped(weight, -limit, limit), scale, zero, top);
}

struct WeightRange {
  float low, high;
};

// The range that a grid is to cover, from a group's least and greatest weight.
GRINQH_BOTH inline WeightRange covered_range(float lowest, float highest, bool symmetric) {
  float low = lowest < 0.0f ? lowest : 0.0f, high = highest > 0.0f ? highest : 0.0f;
  if (symmetric) {
    high = -low > high ? -low : high;
    low = -high;
  }
  if (low == 0 && high == 0) return {-1, 1};
  return {low, high};
}

// Share number `step` of a range.
GRINQH_BOTH inline WeightRange share_of_range(const WeightRange& range, int step, const AffineRule& rule) {
  const float share = 1.0f - static_cast<float>(step) / static_cast<float>(rule.share_steps);
  return {product_of(share, range.low), product_of(share, range.high)};
}

GRINQH_BOTH inline float exact_scale(const WeightRange& range, const AffineRule& rule) {
  return (range.high - range.low) / rule.top_code();
}

GRINQH_BOTH inline AffineGrid grid_of_range(const WeightRange& range, const AffineRule& rule) {
  const uint16_t half = to_half(exact_scale(range, rule));
  // Below the smallest float16 a scale would vanish; such weights all round to zero.
  const uint16_t scale = half < 1 ? uint16_t{1} : half;
  if (rule.symmetric) return {scale, static_cast<uint8_t>(1 << (rule.bits - 1))};
  if (!is_finite_half(scale)) return {scale, 0};
  const float zero = nearest_integer(-range.low / from_half(scale));
  return {scale, static_cast<uint8_t>(clamped(zero, 0.0f, rule.top_code()))};
}

// Sum over a group's `count` weights of |weight - decoded|^norm; some number above `enough` if it is above
// that. The last bit of a power may differ between processors, which can only tip the balance between two
// shares that are equally good.
GRINQH_BOTH inline double affine_error(const float* group, int64_t count, const AffineGrid& grid,
                                       const AffineRule& rule, double enough) {
  constexpr int64_t kBlock = 16;  // how often the sum is looked at
  const float scale = from_half(grid.scale), zero = grid.zero, top = rule.top_code();
  double sum = 0;
  for (int64_t begin = 0; begin < count && sum <= enough; begin += kBlock) {
    const int64_t end = begin + kBlock < count ? begin + kBlock : count;
    for (int64_t i = begin; i < end; ++i) {
      const float code = affine_code(group[i], scale, zero, top);
      sum += static_cast<double>(powf(fabsf(group[i] - affine_value(code, scale, zero)), rule.norm));
    }
  }
  return sum;
}

// Nested codes of 8 bits: position p in [0, 256] stands for minimum + scale p, and a code is the cell that a
// weight lies in.
constexpr int kNestedCodes = 256;

GRINQH_BOTH inline float nested_position(float weight, float scale, float minimum) {
  return (weight - minimum) / scale;
}

GRINQH_BOTH inline uint8_t nested_code(float weight, float scale, float minimum) {
  const float inside = clamped(nested_position(weight, scale, minimum), 0.0f, kNestedCodes - 1.0f);
  return static_cast<uint8_t>(static_cast<int>(inside));
}

GRINQH_BOTH inline float nested_error(float weight, float scale, float minimum, float position) {
  return weight - minimum - product_of(scale, position);
}

}  // namespace grinqh
