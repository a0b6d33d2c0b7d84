// A warp takes a run of units, 16 outputs x 256 inputs, and holds one in registers while the next is on its
// way into the same registers. Inputs are split into two bf16 numbers, high and low, whose products the
// tensor cores sum in float32: columns 2 t and 2 t + 1 of a product are token t.
//
// Where all tokens' inputs do not fit into shared memory they are made a slice at a time, and a warp has the
// same run in every slice. A normalized input's factor is that of the sums: nothing waits for it.
#include "cuda/dense_gemv_kernel.h"
#include "cuda/gemv_operands.cuh"
#include "cuda/launch.cuh"
#include "cuda/tensor_cores.cuh"

namespace grinqh::cuda {

namespace {

constexpr int kOutputs = 16, kInputs = 256, kStep = 32;  // of a unit; inputs of two products
constexpr int kWarps = 8, kThreads = kWarps * 32;
constexpr int kVectors = 2 * kInputs / kStep;  // of 16 bytes: what a lane has of a unit
// Two blocks find room on a multiprocessor: one works, the next launch's fetches its first weights.
constexpr int kMostInputBytes = 72 * 1024;

struct Problem {
  DenseRows w;
  int row_blocks, slices, units;  // units: of a row block, in a slice
  int tokens;
  int sums_at, bytes;  // shared memory: inputs, sums
  GemvInput input;
  GemvOutput output;
};

// A place in a warp's run.
struct Cursor {
  int row, col, left, slice;  // left: units in this slice
};

__device__ inline uint4 load_once(const uint16_t* from) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from));
  return v;
}

// A lane's rows of a row block, lane / 4 and + 8; beyond the last row, that one.
struct LaneRows {
  const uint16_t* rows[2];

  __device__ void point(const DenseRows& w, int64_t first) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      int64_t n = min(first + threadIdx.x % 32 / 4 + half * 8, w.out - 1);
      int64_t begin = 0;
      const uint16_t* data = w.parts[0].data;
      int64_t stride = w.parts[0].stride;
#pragma unroll
      for (int p = 1; p < 4; ++p)
        if (p < w.count && n >= w.parts[p - 1].end) {
          begin = w.parts[p - 1].end;
          data = w.parts[p].data;
          stride = w.parts[p].stride;
        }
      rows[half] = data + (n - begin) * stride;
    }
  }

  // Vector v of the unit whose first input is k0: row v % 2.
  __device__ uint4 load(int64_t in, int64_t k0, int v) const {
    const int64_t k = k0 + v / 2 * kStep + threadIdx.x % 4 * 8;
    const uint16_t* from = rows[v % 2] + k;
    if (k + 8 <= in) return load_once(from);
    uint16_t parts[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) parts[i] = k + i < in ? from[i] : uint16_t{0};
    return {parts[0] | uint32_t{parts[1]} << 16, parts[2] | uint32_t{parts[3]} << 16,
            parts[4] | uint32_t{parts[5]} << 16, parts[6] | uint32_t{parts[7]} << 16};
  }
};

__device__ inline uint32_t pair_of(float first, float second) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// A slice's inputs, [step][column][32], and the sums of squares of what they are made of.
template <class T>
__device__ void stage_inputs(const Problem& p, int slice, uint8_t* x, float (*squares)[kWarps]) {
  constexpr int kBatch = 2;  // loads under way before the first is used
  const int items = p.units * (kInputs / 8), columns = 2 * p.tokens, in = static_cast<int>(p.w.in);
  for (int token = 0; token < p.tokens; ++token) {
    float square = 0;
    for (int first = threadIdx.x; first < items; first += kBatch * kThreads) {
      float all[kBatch][8];
#pragma unroll
      for (int n = 0; n < kBatch; ++n)
        load_unscaled_inputs<T>(p.input, in, token, slice * items + min(first + n * kThreads, items - 1),
                                all[n], first + n * kThreads < items, square);
#pragma unroll
      for (int n = 0; n < kBatch; ++n) {
        const int item = first + n * kThreads;
        if (item >= items) break;
        uint32_t high[4], low[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float a = all[n][2 * i], b = all[n][2 * i + 1];
          high[i] = pair_of(a, b);
          low[i] = pair_of(a - __uint_as_float(high[i] << 16), b - __uint_as_float(high[i] & 0xffff0000u));
        }
        uint8_t* to = x + (item / 4 * columns + 2 * token) * (kStep * 2) + item % 4 * 16;
        *reinterpret_cast<uint4*>(to) = {high[0], high[1], high[2], high[3]};
        *reinterpret_cast<uint4*>(to + kStep * 2) = {low[0], low[1], low[2], low[3]};
      }
    }
    if (p.input.form != GemvInput::Form::rms_norm) continue;
    for (int other = 16; other > 0; other /= 2) square += __shfl_xor_sync(0xffffffffu, square, other);
    if (threadIdx.x % 32 == 0) {
      float& sum = squares[token][threadIdx.x / 32];
      sum = slice == 0 ? square : sum + square;
    }
  }
}

// kSets: of four tokens.
template <int kSets, class T>
__global__ void __launch_bounds__(kThreads, 2) stream_rows(const __grid_constant__ Problem p) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) uint8_t shared[];
  __shared__ float squares[kMaxGemvTokens][kWarps];
  let_next_begin();
  uint8_t* x = shared;
  auto* sums = reinterpret_cast<float*>(shared + p.sums_at);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, t = lane % 4;
  const int blocks = gridDim.x, block = blockIdx.x;
  // Rows are dealt out evenly: the first `more` blocks have one more.
  const int each = p.row_blocks / blocks, more = p.row_blocks - each * blocks;
  const int first_row = each * block + min(block, more), rows = each + (block < more);
  const int units = rows * p.units, units_each = units / kWarps, units_more = units - units_each * kWarps;
  const auto begin_of = [&](int w) { return units_each * w + min(w, units_more); };
  const int begin = begin_of(warp), count = begin_of(warp + 1) - begin;
  const Cursor start{begin / p.units, begin % p.units, count, 0};

  Cursor next = start;
  LaneRows lane_rows;
  uint4 data[kVectors] = {};
  const auto first_input = [&](const Cursor& at) { return (int64_t{at.slice} * p.units + at.col) * kInputs; };
  const auto advance = [&](Cursor& at) {
    if (--at.left == 0) {
      at = {start.row, start.col, count, at.slice + 1};
    } else if (++at.col == p.units) {
      at.col = 0;
      ++at.row;
    }
  };
  lane_rows.point(p.w, (int64_t{first_row} + next.row) * kOutputs);
  if (count > 0) {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) data[v] = lane_rows.load(p.w.in, first_input(next), v);
    advance(next);
  }
  wait_for_inputs();

  const int columns = 2 * p.tokens;
  for (int slice = 0; slice < p.slices; ++slice) {
    if (slice > 0) __syncthreads();
    stage_inputs<T>(p, slice, x, squares);
    __syncthreads();
    Cursor at = start;
    at.slice = slice;
    float acc[kSets][4] = {};
    for (int unit = 0; unit < count; ++unit) {
      const bool more_units = next.slice < p.slices;
      if (more_units) lane_rows.point(p.w, (int64_t{first_row} + next.row) * kOutputs);
      const int64_t next_input = first_input(next);
      const uint8_t* b_at = x + at.col * (kInputs / kStep) * columns * (kStep * 2) + t * 16;
#pragma unroll
      for (int step = 0; step < kInputs / kStep; ++step) {
        uint4 b[kSets];
#pragma unroll
        for (int set = 0; set < kSets; ++set)  // columns that are nobody's repeat the last
          b[set] = *reinterpret_cast<const uint4*>(
              b_at + (step * columns + min(set * 8 + lane / 4, columns - 1)) * (kStep * 2));
        const uint4 top = data[2 * step], bottom = data[2 * step + 1];
#pragma unroll
        for (int set = 0; set < kSets; ++set) {
          multiply(acc[set], {top.x, bottom.x, top.y, bottom.y}, b[set].x, b[set].y);
          multiply(acc[set], {top.z, bottom.z, top.w, bottom.w}, b[set].z, b[set].w);
        }
        if (more_units) {
          data[2 * step] = lane_rows.load(p.w.in, next_input, 2 * step);
          data[2 * step + 1] = lane_rows.load(p.w.in, next_input, 2 * step + 1);
        }
      }
      const int row = at.row;
      advance(at);
      if (more_units) advance(next);
      if (at.row == row && at.slice == slice) continue;
        // This warp's share of 16 outputs is done. No other warp and row block have the same sum of numbers.
#pragma unroll
      for (int set = 0; set < kSets; ++set) {
        const int token = set * 4 + t;
        if (token < p.tokens) {
          float* to = sums + ((warp + row) * p.tokens + token) * kOutputs + lane / 4;
          const float y0 = acc[set][0] + acc[set][1], y1 = acc[set][2] + acc[set][3];
          to[0] = slice == 0 ? y0 : to[0] + y0;
          to[8] = slice == 0 ? y1 : to[8] + y1;
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) acc[set][i] = 0;
      }
    }
  }
  __syncthreads();

  // In the order of warps, whoever came first.
  for (int at = threadIdx.x; at < rows * p.tokens * kOutputs; at += kThreads) {
    const int r = at / (p.tokens * kOutputs), token = at / kOutputs % p.tokens, output = at % kOutputs;
    const int64_t n = (int64_t{first_row} + r) * kOutputs + output;
    if (n >= p.w.out) continue;
    float sum = 0;
    for (int w = 0; w < kWarps; ++w)
      if (max(begin_of(w), r * p.units) < min(begin_of(w + 1), (r + 1) * p.units))
        sum += sums[((w + r) * p.tokens + token) * kOutputs + output];
    if (p.input.form == GemvInput::Form::rms_norm) {
      float square = 0;
      for (int w = 0; w < kWarps; ++w) square += squares[token][w];
      sum *= rsqrtf(square / static_cast<float>(p.w.in) + p.input.epsilon);
    }
    put_output(p.output, token, n, sum);
  }
#else
  __trap();
#endif
}

template <class T>
auto kernel_of(int64_t tokens) {
  return tokens <= 4 ? stream_rows<1, T> : stream_rows<2, T>;
}

}  // namespace

void dense_gemv(const DenseRows& w, const GemvInput& input, const GemvOutput& output, int multiprocessors,
                Stream stream) {
  Problem p{};
  p.w = w;
  p.tokens = static_cast<int>(input.x.rows);
  p.row_blocks = static_cast<int>((w.out + kOutputs - 1) / kOutputs);
  const int units = static_cast<int>((w.in + kInputs - 1) / kInputs);
  const int unit_bytes = kInputs * 2 * 2 * p.tokens;
  p.slices = (units * unit_bytes + kMostInputBytes - 1) / kMostInputBytes;
  p.units = (units + p.slices - 1) / p.slices;
  const int blocks = p.row_blocks < multiprocessors ? p.row_blocks : multiprocessors;
  const int most_rows = (p.row_blocks + blocks - 1) / blocks;
  p.sums_at = p.units * unit_bytes;
  p.bytes = p.sums_at + (kWarps + most_rows) * kOutputs * 4 * p.tokens;
  p.input = input;
  p.output = output;
  const auto kernel =
      input.x.type == Type::bf16 ? kernel_of<__nv_bfloat16>(p.tokens) : kernel_of<float>(p.tokens);
  check_call(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, p.bytes),
             "cudaFuncSetAttribute");
  // Without it the multiprocessor keeps no more shared memory than one block needs.
  check_call(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                  cudaSharedmemCarveoutMaxShared),
             "cudaFuncSetAttribute");
  launch_early("dense gemv", kernel,
               {dim3(static_cast<unsigned>(blocks)), dim3(kThreads), static_cast<size_t>(p.bytes)}, stream,
               p);
}

}  // namespace grinqh::cuda
