// A warp takes a run of units, 16 outputs x 128 inputs, and keeps bulk copies of its next ones in flight into
// shared memory. Inputs are split into two numbers, high and low (dense_gemv_products.cuh), whose products
// the tensor cores sum in float32: columns 2 t and 2 t + 1 of a product are token t.
//
// Where all tokens' inputs do not fit into shared memory they are made a slice at a time, and a warp has the
// same run in every slice. A normalized input's factor is that of the sums: nothing waits for it.
#include "cuda/bulk_copy.cuh"
#include "cuda/dense_gemv_kernel.h"
#include "cuda/dense_gemv_products.cuh"
#include "cuda/gemv_launch.cuh"
#include "cuda/gemv_operands.cuh"

namespace grinqh::cuda {

namespace {

[[maybe_unused]] constexpr int kOutputs = 16, kInputs = 128, kStep = 32;  // of a unit; inputs of two products
constexpr int kWarps = 8, kThreads = kWarps * 32;
// Rows of a unit in shared memory: neighbouring ones lie in different banks.
constexpr int kPitch = kInputs * 2 + 64, kSlotBytes = kOutputs * kPitch;
// More inputs than this are made in slices.
constexpr int kMostInputBytes = 72 * 1024;
constexpr int kMostDepth = 4;

struct Problem {
  DenseRows w;
  int row_blocks, slices, units;  // units: of a row block, in a slice
  int tokens;
  int depth;                                   // units in flight a warp
  int inputs_at, sums_at, barriers_at, bytes;  // shared memory, after the units in flight
  GemvInput input;
  GemvOutput output;
};

// A place in a warp's run.
struct Cursor {
  int row, col, left, slice;  // left: units in this slice
};

// This lane's row of a row block, lane % 16; beyond the last row, that one.
[[maybe_unused]] __device__ inline const uint16_t* row_of(const DenseRows& w, int64_t first) {
  const int64_t n = min(first + threadIdx.x % kOutputs, w.out - 1);
  int64_t begin = 0, stride = w.parts[0].stride;
  const uint16_t* data = w.parts[0].data;
#pragma unroll
  for (int p = 1; p < 4; ++p)
    if (p < w.count && n >= w.parts[p - 1].end) {
      begin = w.parts[p - 1].end;
      data = w.parts[p].data;
      stride = w.parts[p].stride;
    }
  return data + (n - begin) * stride;
}

// Eight weights, of which `valid` are in the row: what lies behind it may be anything.
[[maybe_unused]] __device__ inline uint4 masked(uint4 v, int64_t valid) {
  const auto mask = [&](int pair) {
    return valid >= 2 * pair + 2 ? 0xffffffffu : valid == 2 * pair + 1 ? 0xffffu : 0u;
  };
  return {v.x & mask(0), v.y & mask(1), v.z & mask(2), v.w & mask(3)};
}

// A slice's inputs, [step][column][32], and the sums of squares of what they are made of.
template <class T, class Products>
__device__ void stage_inputs(const Problem& p, int slice, uint8_t* x, float (*squares)[kWarps]) {
  constexpr int kBatch = 2;  // loads under way before the first is used
  const int items = p.units * (kInputs / 8), columns = 2 * p.tokens, in = static_cast<int>(p.w.in);
  for (int token = 0; token < p.tokens; ++token) {
    float square = 0;
    for (int first = threadIdx.x; first < items; first += kBatch * kThreads) {
      float all[kBatch][8];
#pragma unroll
      for (int n = 0; n < kBatch; ++n)
        load_unscaled_inputs<T>(p.input, in, token,
                                first + n * kThreads < items ? slice * items + first + n * kThreads : in,
                                all[n], square);
#pragma unroll
      for (int n = 0; n < kBatch; ++n) {
        const int item = first + n * kThreads;
        if (item >= items) break;
        Products::put(all[n], item % 4, x + (item / 4 * columns + 2 * token) * Products::kColumnBytes);
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
template <int kSets, class T, class Products>
__global__ void __launch_bounds__(kThreads, 2) stream_rows(const __grid_constant__ Problem p) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) uint8_t shared[];
  __shared__ float squares[kMaxGemvTokens][kWarps];
  let_next_begin();
  bring_norm_weights(p.input, p.w.in);
  uint8_t* x = shared + p.inputs_at;
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
  const auto advance = [&](Cursor& at) {
    if (--at.left == 0) {
      at = {start.row, start.col, count, at.slice + 1};
    } else if (++at.col == p.units) {
      at.col = 0;
      ++at.row;
    }
  };

  const uint8_t* ring = shared + warp * p.depth * kSlotBytes;
  const uint32_t ring_at = shared_address(ring),
                 barriers = shared_address(shared + p.barriers_at + warp * p.depth * 8);
  Cursor next = start;
  const uint16_t* row = row_of(p.w, (int64_t{first_row} + next.row) * kOutputs);
  const auto first_input = [&](const Cursor& at) { return (int64_t{at.slice} * p.units + at.col) * kInputs; };
  const int padded_in = static_cast<int>((p.w.in + 7) / 8 * 8);  // rows are as long at least
  const auto fetch_next = [&](int slot) {
    const int64_t k = first_input(next);
    const int bytes = static_cast<int>(max(int64_t{0}, min(int64_t{kInputs}, padded_in - k))) * 2;
    if (lane == 0) expect_bytes(barriers + slot * 8, bytes * kOutputs);
    __syncwarp();
    if (lane < kOutputs && bytes > 0)
      copy_bulk(row + k, ring_at + slot * kSlotBytes + lane * kPitch, bytes, barriers + slot * 8);
    const int of_row = next.row;
    advance(next);
    if (next.row != of_row) row = row_of(p.w, (int64_t{first_row} + next.row) * kOutputs);
  };
  if (lane == 0) {
    for (int slot = 0; slot < p.depth; ++slot) init_barrier(barriers + slot * 8, 1);
    fence_barriers();
  }
  __syncwarp();
  for (int slot = 0; slot < p.depth && slot < count * p.slices; ++slot) fetch_next(slot);
  wait_for_inputs();

  const int columns = 2 * p.tokens;
  int slot = 0;
  uint32_t phase = 0;
  for (int slice = 0; slice < p.slices; ++slice) {
    if (slice > 0) __syncthreads();
    stage_inputs<T, Products>(p, slice, x, squares);
    __syncthreads();
    Cursor at = start;
    at.slice = slice;
    float acc[kSets][4] = {};
    for (int unit = 0; unit < count; ++unit) {
      const int64_t k0 = first_input(at);
      const bool ragged = k0 + kInputs > p.w.in;
      const uint8_t* b_at = x + at.col * (kInputs / kStep) * columns * Products::kColumnBytes;
      const uint8_t* a_at = ring + slot * kSlotBytes + lane / 4 * kPitch + t * 16;
      wait_barrier(barriers + slot * 8, phase);
#pragma unroll
      for (int step = 0; step < kInputs / kStep; ++step) {
        uint4 top = *reinterpret_cast<const uint4*>(a_at + step * (kStep * 2));
        uint4 bottom = *reinterpret_cast<const uint4*>(a_at + 8 * kPitch + step * (kStep * 2));
        if (ragged) {
          const int64_t valid = p.w.in - (k0 + step * kStep + t * 8);
          top = masked(top, valid);
          bottom = masked(bottom, valid);
        }
#pragma unroll
        for (int set = 0; set < kSets; ++set)  // columns that are nobody's repeat the last
          Products::add(
              acc[set], top, bottom, t,
              b_at + (step * columns + min(set * 8 + lane / 4, columns - 1)) * Products::kColumnBytes);
      }
      __syncwarp();
      if (next.slice < p.slices) fetch_next(slot);
      if (++slot == p.depth) {
        slot = 0;
        phase ^= 1;
      }
      const int of_row = at.row;
      advance(at);
      if (at.row == of_row && at.slice == slice) continue;
        // This warp's share of 16 outputs is done. No other warp and row block have the same sum of numbers.
#pragma unroll
      for (int set = 0; set < kSets; ++set) {
        const int token = set * 4 + t;
        if (token < p.tokens) {
          float* to = sums + ((warp + of_row) * p.tokens + token) * kOutputs + lane / 4;
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
    put_output(p.output, token, n, sum * output_factor(p.input, p.w.in, squares[token]));
  }
#else
  __trap();
#endif
}

using Kernel = void (*)(Problem);

template <class T, class Products>
Kernel kernel_of(int64_t tokens) {
  return tokens <= 4 ? stream_rows<1, T, Products> : stream_rows<2, T, Products>;
}
template <class Products>
Kernel kernel_of(Type input, int64_t tokens) {
  return input == Type::bf16 ? kernel_of<__nv_bfloat16, Products>(tokens)
                             : kernel_of<float, Products>(tokens);
}

}  // namespace

void dense_gemv(const DenseRows& w, const GemvInput& input, const GemvOutput& output, int multiprocessors,
                Stream stream) {
  Problem p{};
  p.w = w;
  p.tokens = static_cast<int>(input.x.rows);
  p.row_blocks = static_cast<int>((w.out + kOutputs - 1) / kOutputs);
  const int units = static_cast<int>((w.in + kInputs - 1) / kInputs);
  const bool half = w.element == DenseRows::Element::f16;
  const int column_bytes = half ? F16Products::kColumnBytes : Bf16Products::kColumnBytes;
  const int unit_bytes = kInputs / kStep * column_bytes * 2 * p.tokens;
  p.slices = (units * unit_bytes + kMostInputBytes - 1) / kMostInputBytes;
  p.units = (units + p.slices - 1) / p.slices;
  // As many units in flight as leave room for the next launch, but two in any case. More blocks than
  // multiprocessors only where one's sums would not find room.
  int blocks = p.row_blocks < multiprocessors ? p.row_blocks : multiprocessors;
  for (p.depth = 0; p.depth == 0; blocks = p.depth == 0 ? 2 * blocks : blocks) {
    const int most_rows = (p.row_blocks + blocks - 1) / blocks;
    for (p.depth = kMostDepth; p.depth >= 1; --p.depth) {
      p.inputs_at = kWarps * p.depth * kSlotBytes;
      p.barriers_at = p.inputs_at + p.units * unit_bytes;
      p.sums_at = p.barriers_at + kWarps * p.depth * 8;
      p.bytes = p.sums_at + (kWarps + most_rows) * kOutputs * 4 * p.tokens;
      if (p.bytes <= (p.depth > 2 ? kHalfShared : kMostShared)) break;
    }
  }
  p.input = input;
  p.output = output;
  const Kernel kernel =
      half ? kernel_of<F16Products>(input.x.type, p.tokens) : kernel_of<Bf16Products>(input.x.type, p.tokens);
  launch_streaming("dense gemv", kernel,
                   {dim3(static_cast<unsigned>(blocks)), dim3(kThreads),
                    shared_bytes_behind(input, static_cast<size_t>(p.bytes))},
                   stream, p);
}

}  // namespace grinqh::cuda
