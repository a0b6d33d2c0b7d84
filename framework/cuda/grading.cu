#include "cuda/grading.h"

#include "cuda/elements.cuh"

namespace grinqh::cuda {

namespace {

constexpr int kTokens = 4;  // that share each load of thresholds
constexpr int kThreads = 256;
constexpr uint8_t kNotFixed = 255;
constexpr int kMostSteps = 16;  // between the 17 levels of a rule

// The levels of eight channels, a byte each.
struct ChunkLevels {
  uint32_t low, high;
};

__device__ void load_thresholds(const GradingRule& rule, int step, int64_t col, int64_t in, bool aligned,
                                float (&v)[kChunk]) {
  if (rule.shared) {
    const float threshold = rule.thresholds[step];
#pragma unroll
    for (int i = 0; i < kChunk; ++i) v[i] = threshold;
  } else {
    const auto* row = reinterpret_cast<const char*>(rule.thresholds + int64_t{step} * in);
    to_floats(load_chunk(row, Type::f32, col, in - col, aligned), Type::f32, v);
  }
}

// Channels [col, col + 8) of kTokens tokens, of magnitudes v.
__device__ void grade_chunk(const float (&v)[kTokens][kChunk], const GradingRule& rule, int64_t col,
                            int64_t in, bool aligned, ChunkLevels (&levels)[kTokens]) {
  const uint32_t base = rule.levels[0] * 0x01010101u;
#pragma unroll
  for (int t = 0; t < kTokens; ++t) levels[t] = {base, base};
    // Unrolled, so that levels are read at fixed places of the parameters.
#pragma unroll
  for (int step = 0; step < kMostSteps; ++step) {
    if (step + 1 >= rule.count) break;
    float threshold[kChunk];
    load_thresholds(rule, step, col, in, aligned, threshold);
    const uint32_t increment = static_cast<uint8_t>(rule.levels[step + 1] - rule.levels[step]);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t here = increment << 8 * i;
#pragma unroll
      for (int t = 0; t < kTokens; ++t) {
        levels[t].low += v[t][i] <= threshold[i] ? 0 : here;  // what is no number is read
        levels[t].high += v[t][i + 4] <= threshold[i + 4] ? 0 : here;
      }
    }
  }
}

__device__ void store_levels(uint8_t* row, int64_t col, int64_t in, const ChunkLevels& levels) {
  if (in % kChunk == 0) {
    *reinterpret_cast<uint2*>(row + col) = {levels.low, levels.high};
  } else {
#pragma unroll
    for (int i = 0; i < kChunk; ++i)
      if (col + i < in)
        row[col + i] = static_cast<uint8_t>((i < 4 ? levels.low : levels.high) >> 8 * (i % 4));
  }
}

__device__ ChunkLevels load_levels(const uint8_t* row, int64_t col, int64_t in) {
  if (in % kChunk == 0) {
    const uint2 pair = *reinterpret_cast<const uint2*>(row + col);
    return {pair.x, pair.y};
  }
  ChunkLevels levels{};
#pragma unroll
  for (int i = 0; i < kChunk; ++i)
    if (col + i < in) (i < 4 ? levels.low : levels.high) |= uint32_t{row[col + i]} << 8 * (i % 4);
  return levels;
}

// |x|, zero beyond the rows and columns.
template <Type kType>
__device__ void load_tokens(const ConstView& x, int64_t first, int64_t col, bool aligned,
                            float (&v)[kTokens][kChunk]) {
  Chunk chunks[kTokens];
#pragma unroll
  for (int t = 0; t < kTokens; ++t)
    chunks[t] =
        first + t < x.rows ? load_chunk(row_of(x, first + t), kType, col, x.cols - col, aligned) : Chunk{};
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
    to_floats(chunks[t], kType, v[t]);
#pragma unroll
    for (int i = 0; i < kChunk; ++i) v[t][i] = fabsf(v[t][i]);
  }
}

__device__ void store_tokens(const ConstView& x, const uint8_t* fixed, int64_t first, int64_t col,
                             const ChunkLevels (&levels)[kTokens], uint8_t* chosen) {
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
    if (first + t >= x.rows) break;
    const uint32_t level = fixed ? fixed[first + t] : kNotFixed;
    const uint32_t same = level * 0x01010101u;
    const bool free = level == kNotFixed;
    store_levels(chosen + (first + t) * x.cols, col, x.cols,
                 {free ? levels[t].low : same, free ? levels[t].high : same});
  }
}

template <Type kType>
__global__ void __launch_bounds__(kThreads, 3)
    grade_kernel(ConstView x, const __grid_constant__ GradingRule rule, const uint8_t* fixed, uint8_t* chosen,
                 bool aligned) {
  const int64_t col = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * kChunk;
  if (col >= x.cols) return;
  const int64_t step = int64_t{gridDim.y} * blockDim.y * kTokens;
  for (int64_t first = (int64_t{blockIdx.y} * blockDim.y + threadIdx.y) * kTokens; first < x.rows;
       first += step) {
    float magnitudes[kTokens][kChunk];
    ChunkLevels levels[kTokens];
    load_tokens<kType>(x, first, col, aligned, magnitudes);
    grade_chunk(magnitudes, rule, col, x.cols, aligned, levels);
    store_tokens(x, fixed, first, col, levels, chosen);
  }
}

__device__ int sum_of_bytes(const ChunkLevels& levels) {
  return static_cast<int>(__dp4a(levels.low, 0x01010101u, __dp4a(levels.high, 0x01010101u, 0u)));
}

// The sums over the block of each element, to all threads. Callers alternate between two places: one barrier
// a call is then enough.
__device__ void block_sums(int (&sums)[kTokens], int place) {
  __shared__ int parts[2][32][kTokens];
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
    const int sum = __reduce_add_sync(0xffffffffu, sums[t]);
    if (threadIdx.x % 32 == 0) parts[place][threadIdx.x / 32][t] = sum;
    sums[t] = 0;
  }
  __syncthreads();
  for (unsigned w = 0; w < blockDim.x / 32; ++w)
#pragma unroll
    for (int t = 0; t < kTokens; ++t) sums[t] += parts[place][w][t];
}

// A block finds the factors of kTokens tokens; their rows and the thresholds stay in the first caches.
// Products with a factor are rounded to float32 before they are compared, as on the CPU.
template <Type kType>
__global__ void __launch_bounds__(2 * kThreads)
    grade_exactly_kernel(ConstView x, const __grid_constant__ GradingRule rule, const uint8_t* fixed,
                         uint8_t* chosen, bool aligned) {
  constexpr int kBisections = 20;
  const int64_t first = int64_t{blockIdx.x} * kTokens;
  const int64_t begin = int64_t{threadIdx.x} * kChunk, step = int64_t{blockDim.x} * kChunk;
  const double budget = rule.budget * static_cast<double>(x.cols);
  // Of the logarithm of one token's factor, lane % kTokens: float64 is slow, so that each is computed once a
  // warp.
  double low = -12, high = 12;
  const int own = static_cast<int>(threadIdx.x) % kTokens;
  float factor[kTokens], magnitudes[kTokens][kChunk];
  ChunkLevels levels[kTokens];
  const auto grade_at = [&](int64_t col) {
    load_tokens<kType>(x, first, col, aligned, magnitudes);
#pragma unroll
    for (int t = 0; t < kTokens; ++t)
#pragma unroll
      for (int i = 0; i < kChunk; ++i) magnitudes[t][i] = __fmul_rn(magnitudes[t][i], factor[t]);
    grade_chunk(magnitudes, rule, col, x.cols, aligned, levels);
  };
  const auto set_factors = [&](double logarithm) {
    const auto mine = static_cast<float>(exp2(logarithm));
#pragma unroll
    for (int t = 0; t < kTokens; ++t) factor[t] = __shfl_sync(0xffffffffu, mine, t);
  };
  for (int i = 0; i < kBisections; ++i) {
    int read[kTokens] = {};
    const double middle = 0.5 * (low + high);
    set_factors(middle);
    for (int64_t col = begin; col < x.cols; col += step) {
      grade_at(col);
      const int64_t excess = col + kChunk - x.cols;  // channels beyond the row stand at the lowest level
      const int beyond = excess > 0 ? static_cast<int>(excess) * rule.levels[0] : 0;
#pragma unroll
      for (int t = 0; t < kTokens; ++t) read[t] += sum_of_bytes(levels[t]) - beyond;
    }
    block_sums(read, i % 2);
    int mine = 0;
#pragma unroll
    for (int t = 0; t < kTokens; ++t) mine = t == own ? read[t] : mine;
    (mine > budget ? high : low) = middle;
  }
  set_factors(low);  // never above the budget
  for (int64_t col = begin; col < x.cols; col += step) {
    grade_at(col);
    store_tokens(x, fixed, first, col, levels, chosen);
  }
}

__global__ void fill_levels_kernel(const uint8_t* fixed, int64_t rows, int64_t in, uint8_t* chosen) {
  const int64_t col = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * kChunk;
  if (col >= in) return;
  const int64_t step = int64_t{gridDim.y} * blockDim.y;
  for (int64_t t = int64_t{blockIdx.y} * blockDim.y + threadIdx.y; t < rows; t += step) {
    const uint32_t level = fixed[t] * 0x01010101u;
    store_levels(chosen + t * in, col, in, {level, level});
  }
}

constexpr int kBins = 17;

// A warp counts a row, every lane in a column of its own of the warp's table, so that no two lanes meet.
__global__ void __launch_bounds__(kThreads)
    count_levels_kernel(const uint8_t* chosen, int64_t rows, int64_t in, int32_t* counts) {
  __shared__ int32_t tables[kThreads / 32][kBins][32];
  const int64_t t = int64_t{blockIdx.x} * (kThreads / 32) + threadIdx.x / 32;
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (t >= rows) return;
  auto& table = tables[threadIdx.x / 32];
#pragma unroll
  for (int b = 0; b < kBins; ++b) table[b][lane] = 0;
  const uint8_t* row = chosen + t * in;
#pragma unroll 4
  for (int64_t col = int64_t{lane} * kChunk; col < in; col += 32 * kChunk) {
    const ChunkLevels levels = load_levels(row, col, in);
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      const uint32_t level = (i < 4 ? levels.low : levels.high) >> 8 * (i % 4) & 0xffu;
      if (col + i < in) atomicAdd(&table[level][lane], 1);
    }
  }
  __syncwarp();
  if (lane >= kBins) return;
  int32_t total = 0;
#pragma unroll
  for (int k = 0; k < 32; ++k) total += table[lane][(lane + k) % 32];  // lanes start at different banks
  counts[t * kBins + lane] = total;
}

struct Steps {
  const uint8_t* levels;
  int32_t count;
};

__global__ void __launch_bounds__(kThreads)
    mask_by_level_kernel(ConstView x, const uint8_t* chosen, Steps steps, int64_t in_padded, View out,
                         bool aligned, bool aligned_out) {
  const int64_t col = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * kChunk;
  if (col >= in_padded) return;
  const int64_t step = int64_t{gridDim.y} * blockDim.y;
  for (int64_t t = int64_t{blockIdx.y} * blockDim.y + threadIdx.y; t < x.rows; t += step) {
    float v[kChunk] = {};
    ChunkLevels levels{};
    if (col < x.cols) {
      const Chunk chunk = load_chunk(row_of(x, t), x.type, col, x.cols - col, aligned);
      levels = load_levels(chosen + t * x.cols, col, x.cols);
      to_floats(chunk, x.type, v);
    }
    for (int32_t k = 0; k < steps.count; ++k) {
      const uint32_t least = steps.levels[k];
      float masked[kChunk];
#pragma unroll
      for (int i = 0; i < kChunk; ++i) {
        const uint32_t level = (i < 4 ? levels.low : levels.high) >> 8 * (i % 4) & 0xffu;
        masked[i] = level >= least ? v[i] : 0.0f;
      }
      store_chunk(row_of(out, t), out.type, k * in_padded + col, in_padded - col, aligned_out, masked);
    }
  }
}

}  // namespace

void grade(ConstView x, const GradingRule& rule, const uint8_t* fixed, uint8_t* chosen, Stream stream) {
  if (empty(x)) return;
  const bool aligned = aligned_rows(x) && reinterpret_cast<uintptr_t>(rule.thresholds) % 16 == 0 &&
                       x.cols * sizeof(float) % 16 == 0;
  const bool f32 = x.type == Type::f32;
  if (rule.budget < 0) {
    const Tiling tiling = chunk_tiling(ceil_div(x.rows, kTokens), x.cols);
    const auto kernel = f32 ? grade_kernel<Type::f32> : grade_kernel<Type::bf16>;
    kernel<<<tiling.grid, tiling.block, 0, stream>>>(x, rule, fixed, chosen, aligned);
  } else {
    const int64_t warps = std::clamp<int64_t>(ceil_div(x.cols, 32 * kChunk), 1, 2 * kThreads / 32);
    const auto kernel = f32 ? grade_exactly_kernel<Type::f32> : grade_exactly_kernel<Type::bf16>;
    kernel<<<static_cast<unsigned>(ceil_div(x.rows, kTokens)), static_cast<unsigned>(warps * 32), 0,
             stream>>>(x, rule, fixed, chosen, aligned);
  }
  check_launch("grade", stream);
}

void fill_levels(const uint8_t* fixed, int64_t rows, int64_t in, uint8_t* chosen, Stream stream) {
  if (rows <= 0 || in <= 0) return;
  const Tiling tiling = chunk_tiling(rows, in);
  fill_levels_kernel<<<tiling.grid, tiling.block, 0, stream>>>(fixed, rows, in, chosen);
  check_launch("fill_levels", stream);
}

void count_levels(const uint8_t* chosen, int64_t rows, int64_t in, int32_t* counts, Stream stream) {
  if (rows <= 0) return;
  const int64_t blocks = ceil_div(rows, kThreads / 32);
  count_levels_kernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(chosen, rows, in, counts);
  check_launch("count_levels", stream);
}

void mask_by_level(ConstView x, const uint8_t* chosen, const uint8_t* steps, int32_t count, int64_t in_padded,
                   View out, Stream stream) {
  if (x.rows <= 0 || in_padded <= 0 || count <= 0) return;
  const Tiling tiling = chunk_tiling(x.rows, in_padded);
  const bool aligned_out = aligned_rows(out) && in_padded * size_of(out.type) % 16 == 0;
  mask_by_level_kernel<<<tiling.grid, tiling.block, 0, stream>>>(x, chosen, {steps, count}, in_padded, out,
                                                                 aligned_rows(x), aligned_out);
  check_launch("mask_by_level", stream);
}

}  // namespace grinqh::cuda
