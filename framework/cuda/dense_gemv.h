// Products of unquantized weights with a few tokens: the honest baseline of every packed layout, and the head
// that stays bfloat16. They read the weights where and as they lie, so that no second copy is needed.
#pragma once

#include <memory>
#include <span>

#include "cuda/gemv.h"

namespace grinqh::cuda {

constexpr int kMaxDenseParts = 4;

// Weights [out, in], bf16, of one layer or of several with one input, whose outputs lie one after another;
// the matrices stay the caller's and must outlive the Gemv; what lies between a row's end and the next
// multiple of 16 bytes is read but has no effect. Null if the device has no kernel for them
// (compute capability below 9.0) or if they are of another type, or more than kMaxDenseParts.
std::unique_ptr<Gemv> make_dense_gemv(std::span<const ConstView> weights);

// The same of one matrix in float16, [out, in], `stride` elements from row to row.
std::unique_ptr<Gemv> make_dense_gemv_f16(const uint16_t* weights, int64_t out, int64_t in, int64_t stride);

}  // namespace grinqh::cuda
