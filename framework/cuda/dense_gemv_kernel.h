// The kernel behind dense_gemv.h. (Also read by device code: raw types only.)
#pragma once

#include "cuda/gemv_operands.h"

namespace grinqh::cuda {

// Row-major matrices of 16-bit floats, one below another.
struct DenseRows {
  enum class Element : uint8_t { bf16, f16 };
  struct Part {
    const uint16_t* data = nullptr;
    int64_t stride = 0;  // elements
    int64_t end = 0;     // rows of this part and of those above it
  };
  Part parts[4];
  Element element = Element::bf16;
  int count = 0;
  int64_t out = 0, in = 0;
};

// y = x W^T, 1 to 8 tokens. Needs compute capability 9.0.
void dense_gemv(const DenseRows& weights, const GemvInput& input, const GemvOutput& output,
                int multiprocessors, Stream stream);

}  // namespace grinqh::cuda
