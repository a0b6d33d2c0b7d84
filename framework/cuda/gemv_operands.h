// What the products of few tokens read and write besides weights. (Also read by device code: raw types only.)
#pragma once

#include "cuda/types.h"

namespace grinqh::cuda {

constexpr int64_t kMaxGemvTokens = 8;

// A product makes its input from what the kernels before it left, so that no launch lies between them. What
// is made is float32, and is not rounded to x's type.
struct GemvInput {
  enum class Form : uint8_t {
    plain,     // x: [tokens, in]
    rms_norm,  // x / sqrt(mean(x^2) + epsilon) * norm_weight, as ops.h rms_norm; x: [tokens, in]
    swiglu,    // silu(gate) * up; x: [tokens, 2 in], gate beside up; in: a multiple of 8
  };
  ConstView x;  // f32 or bf16; rows begin at multiples of 16 bytes
  Form form = Form::plain;
  const float* norm_weight = nullptr;  // [in]
  float epsilon = 0;
  // The kernel that made x leaves multiprocessors without a block: those of a product that begin while it
  // runs would share some of them, and be late (gemv_launch.cuh).
  bool unevenly_made = false;
};

// y = product + bias, or y += product + bias.
struct GemvOutput {
  View y;  // [tokens, out], f32 or bf16; not x
  bool add = false;
  const float* bias = nullptr;  // [out], or nothing
};

}  // namespace grinqh::cuda
