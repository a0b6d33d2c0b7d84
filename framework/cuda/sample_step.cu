// Blocks take parts of the logits; the last one to end draws, the same whichever it is.
#include "cuda/sample_step.h"

#include "core/generated_values.h"
#include "cuda/launch.cuh"
#include "cuda/typed_elements.cuh"

namespace grinqh::cuda {

namespace {

constexpr int kThreads = 256, kParts = 64;

// Of a part's logits over temperature; the first of the greatest, and the sum of what they are to it.
struct Part {
  float greatest;
  int32_t index;
  double sum;  // of exp(value - greatest)
};

struct Scratch {
  Part parts[kParts];
  int32_t done, unused[3];
};

__device__ float warm(float logit, float temperature) {
  return temperature > 0 ? static_cast<float>(static_cast<double>(logit) / temperature) : logit;
}

__device__ bool better(float a, int32_t i, float b, int32_t j) { return a > b || (a == b && i < j); }

// The greatest of the block's, to all threads.
__device__ void block_greatest(float& value, int32_t& index) {
  __shared__ float values[kThreads / 32];
  __shared__ int32_t indices[kThreads / 32];
  const auto take = [&](float other, int32_t at) {
    if (better(other, at, value, index)) value = other, index = at;
  };
  for (int step = 16; step > 0; step /= 2)
    take(__shfl_xor_sync(0xffffffffu, value, step), __shfl_xor_sync(0xffffffffu, index, step));
  if (threadIdx.x % 32 == 0) values[threadIdx.x / 32] = value, indices[threadIdx.x / 32] = index;
  __syncthreads();
  for (int w = 0; w < kThreads / 32; ++w) take(values[w], indices[w]);
  __syncthreads();
}

// Sums of threads 0 .. i, to thread i; in an order that does not change.
__device__ double block_prefix(double value) {
  __shared__ double sums[2][kThreads];
  int from = 0;
  sums[0][threadIdx.x] = value;
  for (int step = 1; step < kThreads; step *= 2) {
    __syncthreads();
    const double before = static_cast<int>(threadIdx.x) >= step ? sums[from][threadIdx.x - step] : 0.0;
    sums[1 - from][threadIdx.x] = sums[from][threadIdx.x] + before;
    from = 1 - from;
  }
  __syncthreads();
  return sums[from][threadIdx.x];
}

__device__ double draw(uint64_t& state) {
  state += 0x9e3779b97f4a7c15u;
  return static_cast<double>(mixed_bits(state) >> 11) * 0x1p-53;
}

// The index at which the cumulated parts pass the draw. All threads of the block.
__device__ int32_t draw_index(const float* logits, int vocab, int each, float temperature, const Part* parts,
                              float greatest, int32_t likeliest, double uniform) {
  __shared__ int chosen;
  __shared__ double rest;
  __shared__ int32_t found;
  if (threadIdx.x == 0) {
    double total = 0;
    for (int i = 0; i < kParts; ++i)
      if (parts[i].sum > 0) total += parts[i].sum * exp(static_cast<double>(parts[i].greatest - greatest));
    rest = uniform * total;
    chosen = -1;
    for (int i = 0; i < kParts && chosen < 0; ++i) {
      if (!(parts[i].sum > 0)) continue;
      const double sum = parts[i].sum * exp(static_cast<double>(parts[i].greatest - greatest));
      if (rest < sum)
        chosen = i;
      else
        rest -= sum;
    }
    found = likeliest;  // rounding left a rest: the draw was at the very end
  }
  __syncthreads();
  if (chosen < 0) return found;
  const int first = chosen * each, end = min(first + each, vocab);
  const int share = (each + kThreads - 1) / kThreads;
  const int mine = first + static_cast<int>(threadIdx.x) * share, mine_end = min(mine + share, end);
  double sum = 0;
  for (int i = mine; i < mine_end; ++i) sum += expf(warm(logits[i], temperature) - greatest);
  const double up_to = block_prefix(sum);
  double left = rest - (up_to - sum);
  if (left >= 0 && rest < up_to) {
    int32_t at = mine_end - 1;
    for (int i = mine; i < mine_end; ++i) {
      left -= expf(warm(logits[i], temperature) - greatest);
      if (left < 0) {
        at = i;
        break;
      }
    }
    found = at;
  }
  __syncthreads();
  return found;
}

template <class T>
__device__ void embed_token(const SampleStep& p, int32_t token, int sequence) {
  const T* from = static_cast<const T*>(p.embedding.data) + token * p.embedding.stride;
  float* to = static_cast<float*>(p.x.data) + sequence * p.x.stride;
  for (int64_t i = int64_t{threadIdx.x} * 8; i < p.x.cols; i += kThreads * 8) {
    const int valid = static_cast<int>(min(int64_t{8}, p.x.cols - i));
    float v[8];
    load8_part(from + i, valid, v);
    store8_part(v, valid, to + i);
  }
}

__global__ void __launch_bounds__(kThreads) sample_step_kernel(const __grid_constant__ SampleStep p) {
  __shared__ bool last;
  __shared__ int32_t drawn;
  let_next_begin();
  const int sequence = blockIdx.y, vocab = static_cast<int>(p.logits.cols);
  const int each = (vocab + kParts - 1) / kParts;
  const int first = static_cast<int>(blockIdx.x) * each, end = min(first + each, vocab);
  const float* logits = static_cast<const float*>(p.logits.data) + sequence * p.logits.stride;
  Scratch& scratch = static_cast<Scratch*>(p.scratch)[sequence];
  wait_for_inputs();

  float greatest = -INFINITY;
  int32_t index = INT32_MAX;
  for (int i = first + static_cast<int>(threadIdx.x); i < end; i += kThreads) {
    const float value = warm(logits[i], p.temperature);
    if (better(value, i, greatest, index)) greatest = value, index = i;
  }
  block_greatest(greatest, index);
  double sum = 0;
  if (p.temperature > 0) {
    for (int i = first + static_cast<int>(threadIdx.x); i < end; i += kThreads)
      sum += expf(warm(logits[i], p.temperature) - greatest);
    sum = block_prefix(sum);
  }
  if (threadIdx.x == kThreads - 1) {
    scratch.parts[blockIdx.x] = {greatest, index, sum};
    __threadfence();
    last = atomicAdd(&scratch.done, 1) == kParts - 1;
  }
  __syncthreads();
  if (!last) return;
  __threadfence();

  greatest = -INFINITY;
  index = INT32_MAX;
  __shared__ Part parts[kParts];
  if (threadIdx.x < kParts) {
    const volatile Part& part = scratch.parts[threadIdx.x];
    parts[threadIdx.x] = {part.greatest, part.index, part.sum};
    greatest = parts[threadIdx.x].greatest;
    index = parts[threadIdx.x].index;
  }
  block_greatest(greatest, index);
  if (p.temperature > 0) {
    uint64_t state = p.state.chance[sequence];
    const double uniform = draw(state);
    index = draw_index(logits, vocab, each, p.temperature, parts, greatest, index, uniform);
    if (threadIdx.x == 0) p.state.chance[sequence] = state;
  }
  if (threadIdx.x == 0) {
    drawn = index < vocab ? index : 0;  // of logits that are no numbers: as the CPU, the first
    scratch.done = 0;
    p.state.tokens[sequence] = drawn;
    p.state.positions[sequence] += 1;
    const int32_t step = p.state.steps[sequence];
    p.state.steps[sequence] = step + 1;
    *static_cast<volatile int32_t*>(p.history + step % p.ring * gridDim.y + sequence) = drawn;
    __threadfence_system();
  }
  __syncthreads();
  if (p.embedding.type == Type::f32)
    embed_token<float>(p, drawn, sequence);
  else
    embed_token<__nv_bfloat16>(p, drawn, sequence);
}

}  // namespace

int64_t sample_scratch(int64_t sequences) { return sequences * static_cast<int64_t>(sizeof(Scratch)); }

void sample_step(const SampleStep& task, Stream stream) {
  launch_early("sample step", sample_step_kernel,
               {dim3(kParts, static_cast<unsigned>(task.logits.rows)), dim3(kThreads)}, stream, task);
}

}  // namespace grinqh::cuda
