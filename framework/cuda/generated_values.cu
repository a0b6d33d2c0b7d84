#include "cuda/generated_values.h"

namespace grinqh::cuda {

namespace {

__global__ void generate_kernel(GeneratedValues values, View to) {
  const int64_t count = to.rows * to.cols;
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * blockDim.x) {
    const int64_t at = i / to.cols * to.stride + i % to.cols;
    const uint16_t bits = values.at(i);
    if (to.type == Type::bf16)
      static_cast<uint16_t*>(to.data)[at] = bits;
    else
      static_cast<float*>(to.data)[at] = __uint_as_float(static_cast<uint32_t>(bits) << 16);
  }
}

}  // namespace

void generate(const GeneratedValues& values, View to, Stream stream) {
  if (to.rows == 0 || to.cols == 0) return;
  constexpr int kThreads = 256;
  constexpr unsigned kBlocks = 4096;
  generate_kernel<<<kBlocks, kThreads, 0, stream>>>(values, to);
  check_launch("generate", stream);
}

}  // namespace grinqh::cuda
