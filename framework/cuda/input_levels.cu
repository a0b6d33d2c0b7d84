#include "cuda/input_levels.h"

#include "cuda/gemv_operands.cuh"
#include "cuda/launch.cuh"

namespace grinqh::cuda {

namespace {

constexpr int kThreads = 512, kLevels = 17;

// A block counts a token.
template <class T>
__global__ void __launch_bounds__(kThreads)
    count_input_levels_kernel(GemvInput input, const __grid_constant__ GradingRule rule, int in,
                              int32_t* counts) {
  __shared__ float scratch[33];
  __shared__ int32_t found[kLevels];
  if (threadIdx.x < kLevels) found[threadIdx.x] = 0;
  wait_for_inputs();
  const int token = blockIdx.x;
  const float factor = input_factor<T>(input, in, token, scratch);
  __syncthreads();
  for (int item = threadIdx.x; item * 8 < in; item += kThreads) {
    float v[8];
    load_inputs<T>(input, in, token, item, factor, v);
    for (int i = 0; i < min(8, in - item * 8); ++i) {
      int level = rule.levels[0];
      for (int step = 0; step + 1 < rule.count; ++step) {
        const float threshold =
            rule.shared ? rule.thresholds[step] : rule.thresholds[int64_t{step} * in + item * 8 + i];
        if (!(fabsf(v[i]) <= threshold)) level += rule.levels[step + 1] - rule.levels[step];
      }
      atomicAdd(&found[level], 1);  // of integers: in any order the same
    }
  }
  __syncthreads();
  if (threadIdx.x < kLevels) counts[token * kLevels + threadIdx.x] = found[threadIdx.x];
}

__global__ void publish_counts_kernel(const int32_t* counts, int64_t count, const int32_t* step,
                                      int32_t* history, int32_t ring) {
  wait_for_inputs();
  int32_t* row = history + *step % ring * count;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x)
    row[i] = counts[i];
}

}  // namespace

void count_input_levels(const GemvInput& input, const GradingRule& rule, int32_t* counts, Stream stream) {
  const int in = static_cast<int>(input.form == GemvInput::Form::swiglu ? input.x.cols / 2 : input.x.cols);
  const LaunchShape shape{dim3(static_cast<unsigned>(input.x.rows)), dim3(kThreads)};
  if (input.x.type == Type::f32)
    launch_early("count input levels", count_input_levels_kernel<float>, shape, stream, input, rule, in,
                 counts);
  else
    launch_early("count input levels", count_input_levels_kernel<__nv_bfloat16>, shape, stream, input, rule,
                 in, counts);
}

void publish_counts(const int32_t* counts, int64_t count, const int32_t* step, int32_t* history, int32_t ring,
                    Stream stream) {
  launch_early("publish counts", publish_counts_kernel, {dim3(16), dim3(256)}, stream, counts, count, step,
               history, ring);
}

}  // namespace grinqh::cuda
