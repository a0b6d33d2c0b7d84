#include "cuda/scores.h"

#include "cuda/elements.cuh"

namespace grinqh::cuda {

namespace {

constexpr int kThreads = 512;
constexpr float kLowest = -3.0e38f;  // below all logits; exp of anything minus it never meets inf - inf
constexpr float kLog2e = 1.44269504f;

__device__ float exp_of(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * kLog2e));
  return y;
}

// What one pass over a row of logits leaves: the first greatest value and sum exp(x - greatest); with a
// reference also sum exp(x - greatest) (x - other), whose rows are those of the other model.
struct Mass {
  float greatest = kLowest;
  int32_t at = 0;
  double sum = 0, difference = 0;

  __device__ void add(const float (&x)[kChunk], const float* other, int64_t col) {
    float top = x[0];
#pragma unroll
    for (int i = 1; i < kChunk; ++i) top = fmaxf(top, x[i]);
    if (top > greatest) {
      const auto shrink = static_cast<double>(exp_of(greatest - top));
      sum *= shrink;
      difference *= shrink;
      greatest = top;
      int first = 0;
#pragma unroll
      for (int i = kChunk - 1; i >= 0; --i) first = x[i] == top ? i : first;
      at = static_cast<int32_t>(col) + first;
    }
    float part = 0, along = 0;
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      const float e = exp_of(x[i] - greatest);
      part += e;
      if (other) along = fmaf(e, x[i] - other[i], along);
    }
    sum += static_cast<double>(part);
    if (other) difference += static_cast<double>(along);
  }

  __device__ void add(const Mass& from) {
    const float top = fmaxf(greatest, from.greatest);
    const auto mine = static_cast<double>(exp_of(greatest - top));
    const auto theirs = static_cast<double>(exp_of(from.greatest - top));
    sum = sum * mine + from.sum * theirs;
    difference = difference * mine + from.difference * theirs;
    at = greatest > from.greatest ? at : greatest < from.greatest ? from.at : min(at, from.at);
    greatest = top;
  }

  __device__ double log_sum_exp() const { return static_cast<double>(greatest) + log(sum); }
};

__device__ Mass from_lane(const Mass& m, int step) {
  constexpr unsigned kAll = 0xffffffffu;
  Mass other;
  other.greatest = __shfl_down_sync(kAll, m.greatest, step);
  other.at = __shfl_down_sync(kAll, m.at, step);
  other.sum = __shfl_down_sync(kAll, m.sum, step);
  other.difference = __shfl_down_sync(kAll, m.difference, step);
  return other;
}

// Of the whole block; valid in thread 0.
__device__ Mass block_mass(Mass mine) {
  __shared__ float greatest[32];
  __shared__ int32_t at[32];
  __shared__ double sum[32], difference[32];
  for (int step = 16; step > 0; step /= 2) mine.add(from_lane(mine, step));
  const unsigned warp = threadIdx.x / 32;
  if (threadIdx.x % 32 == 0) {
    greatest[warp] = mine.greatest;
    at[warp] = mine.at;
    sum[warp] = mine.sum;
    difference[warp] = mine.difference;
  }
  __syncthreads();
  if (threadIdx.x == 0)
    for (unsigned w = 1; w < blockDim.x / 32; ++w) {
      Mass other;
      other.greatest = greatest[w];
      other.at = at[w];
      other.sum = sum[w];
      other.difference = difference[w];
      mine.add(other);
    }
  __syncthreads();
  return mine;
}

// Columns beyond the row take part as logits that no sum notices.
__device__ void pad(float (&v)[kChunk], int64_t count) {
#pragma unroll
  for (int i = 0; i < kChunk; ++i)
    if (i >= count) v[i] = kLowest;
}

__device__ float element(const char* row, Type type, int64_t col) {
  return type == Type::f32 ? reinterpret_cast<const float*>(row)[col]
                           : __bfloat162float(reinterpret_cast<const __nv_bfloat16*>(row)[col]);
}

// A block scores a row, in one pass over it.
template <bool kReference>
__global__ void __launch_bounds__(kThreads)
    score_rows_kernel(ConstView logits, ConstView reference, const int32_t* next, RowScore* scores,
                      bool aligned) {
  const int64_t t = blockIdx.x;
  if (next[t] < 0) return;
  const char* row = row_of(logits, t);
  const char* original = kReference ? row_of(reference, t) : nullptr;
  Mass model, truth;
#pragma unroll 2
  for (int64_t col = int64_t{threadIdx.x} * kChunk; col < logits.cols; col += int64_t{kThreads} * kChunk) {
    const int64_t count = logits.cols - col;
    const Chunk x = load_chunk(row, logits.type, col, count, aligned);
    Chunk y{};
    if (kReference) y = load_chunk(original, reference.type, col, count, aligned);
    float q[kChunk], p[kChunk];
    to_floats(x, logits.type, q);
    pad(q, count);
    model.add(q, nullptr, col);
    if (kReference) {
      to_floats(y, reference.type, p);
      pad(p, count);
      truth.add(p, q, col);
    }
  }
  model = block_mass(model);
  if (kReference) truth = block_mass(truth);
  if (threadIdx.x != 0) return;
  RowScore score{};
  const double lse = model.log_sum_exp();
  score.nll = lse - static_cast<double>(element(row, logits.type, next[t]));
  if (kReference) {
    const double lse_float = truth.log_sum_exp();
    score.nll_float = lse_float - static_cast<double>(element(original, reference.type, next[t]));
    // KL(p || q) = E_p[p's logits - q's logits] + log Z_q - log Z_p.
    score.kl = truth.difference / truth.sum + lse - lse_float;
    score.same_top = model.at == truth.at;
  }
  scores[t] = score;
}

__global__ void __launch_bounds__(kThreads)
    loss_gradient_kernel(View logits, const int32_t* next, double* losses, bool aligned) {
  const int64_t t = blockIdx.x, step = int64_t{kThreads} * kChunk;
  char* row = row_of(logits, t);
  const int32_t target = next[t];
  __shared__ float greatest, share;
  if (target >= 0) {
    Mass mass;
    for (int64_t col = int64_t{threadIdx.x} * kChunk; col < logits.cols; col += step) {
      float v[kChunk];
      to_floats(load_chunk(row, logits.type, col, logits.cols - col, aligned), logits.type, v);
      pad(v, logits.cols - col);
      mass.add(v, nullptr, col);
    }
    mass = block_mass(mass);
    if (threadIdx.x == 0) {
      greatest = mass.greatest;
      share = static_cast<float>(1.0 / mass.sum);
      losses[t] = mass.log_sum_exp() - static_cast<double>(element(row, logits.type, target));
    }
  } else if (threadIdx.x == 0) {
    losses[t] = 0;
  }
  __syncthreads();
  for (int64_t col = int64_t{threadIdx.x} * kChunk; col < logits.cols; col += step) {
    float v[kChunk] = {};
    if (target >= 0) {
      to_floats(load_chunk(row, logits.type, col, logits.cols - col, aligned), logits.type, v);
#pragma unroll
      for (int i = 0; i < kChunk; ++i)
        v[i] = exp_of(v[i] - greatest) * share - (col + i == target ? 1.0f : 0.0f);
    }
    store_chunk(row, logits.type, col, logits.cols - col, aligned, v);
  }
}

}  // namespace

void score_rows(ConstView logits, ConstView reference, const int32_t* next, RowScore* scores, Stream stream) {
  if (empty(logits)) return;
  const auto blocks = static_cast<unsigned>(logits.rows);
  if (reference.data)
    score_rows_kernel<true><<<blocks, kThreads, 0, stream>>>(logits, reference, next, scores,
                                                             aligned_rows(logits) && aligned_rows(reference));
  else
    score_rows_kernel<false>
        <<<blocks, kThreads, 0, stream>>>(logits, reference, next, scores, aligned_rows(logits));
  check_launch("score_rows", stream);
}

void loss_gradient(View logits, const int32_t* next, double* losses, Stream stream) {
  if (empty(logits)) return;
  loss_gradient_kernel<<<static_cast<unsigned>(logits.rows), kThreads, 0, stream>>>(logits, next, losses,
                                                                                    aligned_rows(logits));
  check_launch("loss_gradient", stream);
}

}  // namespace grinqh::cuda
