#include "cuda/factor_kernels.h"

namespace grinqh::cuda {

namespace {

constexpr int kThreads = 256;

__global__ void reverse_damped_kernel(const float* h, int64_t n, double added, double* to) {
  for (int64_t i = blockIdx.x; i < n; i += gridDim.x)
    for (int64_t j = threadIdx.x; j < n; j += blockDim.x)
      to[i * n + j] =
          j > i ? 0.0 : static_cast<double>(h[(n - 1 - i) * n + n - 1 - j]) + (i == j ? added : 0.0);
}

__global__ void reverse_factor_kernel(const double* lower, int64_t n, float* upper) {
  for (int64_t i = blockIdx.x; i < n; i += gridDim.x)
    for (int64_t j = threadIdx.x; j < n; j += blockDim.x)
      upper[i * n + j] = j < i ? 0.0f : static_cast<float>(lower[(n - 1 - i) * n + n - 1 - j]);
}

unsigned grid_for(int64_t rows) { return static_cast<unsigned>(rows < 65535 ? rows : 65535); }

}  // namespace

void reverse_damped(const float* h, int64_t n, double added, double* to, Stream stream) {
  if (n == 0) return;
  reverse_damped_kernel<<<grid_for(n), kThreads, 0, stream>>>(h, n, added, to);
  check_launch("reverse_damped", stream);
}

void reverse_factor(const double* lower, int64_t n, float* upper, Stream stream) {
  if (n == 0) return;
  reverse_factor_kernel<<<grid_for(n), kThreads, 0, stream>>>(lower, n, upper);
  check_launch("reverse_factor", stream);
}

}  // namespace grinqh::cuda
