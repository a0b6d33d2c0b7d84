// The warps of a block take its units, 16 outputs x 128 inputs, in turns, so that what is under way at a time
// lies side by side in memory. Each keeps copies of its next units under way into shared memory, by vectors:
// as many rows' bulk copies would be more than a multiprocessor can ask for in time. Inputs are split into
// two numbers, high and low (dense_gemv_products.cuh), whose products the tensor cores sum in float32:
// columns 2 t and 2 t + 1 of a product are token t.
//
// Where all tokens' inputs take much shared memory they are made a slice at a time, and a warp has the same
// units of every slice. A normalized input's factor is that of the sums: nothing waits for it.
#include <algorithm>

#include "cuda/bulk_copy.cuh"
#include "cuda/dense_gemv_kernel.h"
#include "cuda/dense_gemv_products.cuh"
#include "cuda/gemv_launch.cuh"
#include "cuda/gemv_operands.cuh"
#include "cuda/shared_memory.cuh"

namespace grinqh::cuda {

namespace {

[[maybe_unused]] constexpr int kOutputs = 16, kInputs = 128, kStep = 32;  // of a unit; inputs of two products
constexpr int kWarps = 8, kThreads = kWarps * 32;
constexpr int kRowBytes = kInputs * 2, kSlotBytes = kOutputs * kRowBytes;
// More inputs than this are made in slices: of one token, of several.
constexpr int kMostInputBytes = 40 * 1024, kMostInputBytesOfSeveral = 72 * 1024;
// Units under way a warp. A block of attention finds room beside so many; four take a fortieth less time, but
// more in a step.
constexpr int kDepth = 3;
constexpr int kInputsAt = kWarps * kDepth * kSlotBytes;

struct Problem {
  DenseRows w;
  int row_blocks, slices, units;  // units: of a row block, in a slice
  int tokens;
  int barriers_at, sums_at;  // shared memory: units under way, inputs, barriers, sums
  GemvInput input;
  GemvOutput output;
};

// Who takes which of a block's units, of each slice alike: warps in turns, so that what is under way at a
// time lies side by side in memory; of several tokens in runs, as sums are put down, and much of them,
// wherever a warp's row block ends.
template <bool kInTurns>
struct Dealing {
  static constexpr int kApart = kInTurns ? kWarps : 1;  // a warp's units
  int units, rows;                                      // of a row block; row blocks

  __device__ int first(int warp) const {
    if constexpr (kInTurns) return warp;
    const int each = units * rows / kWarps;
    return each * warp + min(warp, units * rows - each * kWarps);
  }
  __device__ int count(int warp) const {
    return kInTurns ? (units * rows - warp + kWarps - 1) / kWarps : first(warp + 1) - first(warp);
  }
  // Whether a warp has units of a row block.
  __device__ bool has(int warp, int row) const {
    const auto before = [&](int unit) { return (unit - warp + kWarps - 1) / kWarps; };
    return kInTurns ? before(row * units) < before((row + 1) * units)
                    : max(first(warp), row * units) < min(first(warp + 1), (row + 1) * units);
  }
  // Of a warp's sums of a row block. Neighbouring runs share one row block at most.
  __device__ int place(int warp, int row) const { return warp * (kInTurns ? rows : 1) + row; }
  static int places(int rows) { return kInTurns ? kWarps * rows : kWarps + rows; }
};

// A place in a warp's units.
struct Cursor {
  int row, col, left, slice;  // left: units in this slice
};

constexpr int kPieces = kInputs / 8;  // vectors of a unit's row

// Of a vector, in a unit's bytes: those of neighbouring rows lie in different banks.
[[maybe_unused]] __device__ inline int place_of(int row, int piece) {
  return row * kRowBytes + (piece ^ row % 2 * 4) * 16;
}

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

// kSets: of four tokens; 0: a single token.
template <int kSets, class T, class Products>
__global__ void __launch_bounds__(kThreads, 2) stream_rows(const __grid_constant__ Problem p) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) uint8_t shared[];
  __shared__ float squares[kMaxGemvTokens][kWarps];
  let_next_begin();
  bring_norm_weights(p.input, p.w.in);
  uint8_t* x = shared + kInputsAt;
  auto* sums = reinterpret_cast<float*>(shared + p.sums_at);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, t = lane % 4;
  const int blocks = gridDim.x, block = blockIdx.x;
  // Rows are dealt out evenly: the first `more` blocks have one more.
  const int each = p.row_blocks / blocks, more = p.row_blocks - each * blocks;
  const int first_row = each * block + min(block, more), rows = each + (block < more);
  const Dealing<kSets == 0> dealing{p.units, rows};
  constexpr int kSums = kSets == 0 ? 1 : kSets;
  const int count = dealing.count(warp), begin = dealing.first(warp);
  const Cursor start{begin / p.units, begin % p.units, count, 0};
  const auto advance = [&](Cursor& at) {
    if (--at.left == 0) {
      at = {start.row, start.col, count, at.slice + 1};
      return;
    }
    for (at.col += dealing.kApart; at.col >= p.units; at.col -= p.units) ++at.row;
  };

  const uint8_t* ring = shared + warp * kDepth * kSlotBytes;
  const uint32_t ring_at = shared_address(ring),
                 barriers = shared_address(shared + p.barriers_at + warp * kDepth * 8);
  Cursor next = start;
  const uint16_t* row = row_of(p.w, (int64_t{first_row} + next.row) * kOutputs);
  const auto first_input = [&](const Cursor& at) { return (int64_t{at.slice} * p.units + at.col) * kInputs; };
  const int padded_in = static_cast<int>((p.w.in + 7) / 8 * 8);  // rows are as long at least
  const auto fetch_next = [&](int slot) {
    const int64_t k = first_input(next) + lane % kPieces * 8;
#pragma unroll
    for (int i = 0; i < kOutputs * kPieces / 32; ++i) {
      const int of_unit = i * (32 / kPieces) + lane / kPieces;
      const auto* from = reinterpret_cast<const uint16_t*>(
          __shfl_sync(0xffffffffu, reinterpret_cast<unsigned long long>(row), of_unit));
      copy_async(ring_at + slot * kSlotBytes + place_of(of_unit, lane % kPieces), from + k, k < padded_in);
    }
    arrive_behind_copies(barriers + slot * 8);
    const int of_row = next.row;
    advance(next);
    if (next.row != of_row) row = row_of(p.w, (int64_t{first_row} + next.row) * kOutputs);
  };
  if (lane == 0) {
    for (int slot = 0; slot < kDepth; ++slot) init_barrier(barriers + slot * 8, 32);
    fence_barriers();
  }
  __syncwarp();
  for (int slot = 0; slot < kDepth && slot < count * p.slices; ++slot) fetch_next(slot);
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
    float acc[kSums][4] = {};
    for (int unit = 0; unit < count; ++unit) {
      const int64_t k0 = first_input(at);
      const bool ragged = k0 + kInputs > p.w.in;
      const uint8_t* b_at = x + at.col * (kInputs / kStep) * columns * Products::kColumnBytes;
      const uint8_t* unit_at = ring + slot * kSlotBytes;
      wait_barrier(barriers + slot * 8, phase);
#pragma unroll
      for (int step = 0; step < kInputs / kStep; ++step) {
        const int piece = step * (kStep / 8) + t;
        uint4 top = *reinterpret_cast<const uint4*>(unit_at + place_of(lane / 4, piece));
        uint4 bottom = *reinterpret_cast<const uint4*>(unit_at + place_of(lane / 4 + 8, piece));
        if (ragged) {
          const int64_t valid = p.w.in - (k0 + step * kStep + t * 8);
          top = masked(top, valid);
          bottom = masked(bottom, valid);
        }
#pragma unroll
        for (int set = 0; set < kSums; ++set)  // columns that are nobody's repeat the last
          Products::add(
              acc[set], top, bottom, t,
              b_at + (step * columns + min(set * 8 + lane / 4, columns - 1)) * Products::kColumnBytes);
      }
      __syncwarp();
      if (next.slice < p.slices) fetch_next(slot);
      if (++slot == kDepth) {
        slot = 0;
        phase ^= 1;
      }
      const int of_row = at.row;
      advance(at);
      if (at.row == of_row && at.slice == slice) continue;
        // This warp's share of 16 outputs is done.
#pragma unroll
      for (int set = 0; set < kSums; ++set) {
        const int token = set * 4 + t;
        if (token < p.tokens) {
          float* to = sums + (dealing.place(warp, of_row) * p.tokens + token) * kOutputs + lane / 4;
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
      if (dealing.has(w, r)) sum += sums[(dealing.place(w, r) * p.tokens + token) * kOutputs + output];
    put_output(p.output, token, n, sum * output_factor(p.input, p.w.in, squares[token]));
  }
#else
  __trap();
#endif
}

using Kernel = void (*)(Problem);

template <class T, class Products>
Kernel kernel_of(int64_t tokens) {
  return tokens == 1   ? stream_rows<0, T, Products>
         : tokens <= 4 ? stream_rows<1, T, Products>
                       : stream_rows<2, T, Products>;
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
  const int most = p.tokens == 1 ? kMostInputBytes : kMostInputBytesOfSeveral;
  p.slices = (units * unit_bytes + most - 1) / most;
  p.units = (units + p.slices - 1) / p.slices;
  p.barriers_at = kInputsAt + p.units * unit_bytes;
  p.sums_at = p.barriers_at + kWarps * kDepth * 8;
  // More blocks than multiprocessors only where one's sums would not find room.
  int blocks = std::min(p.row_blocks, multiprocessors);
  const auto shared_bytes = [&] {
    const int rows = (p.row_blocks + blocks - 1) / blocks;
    const int places = p.tokens == 1 ? Dealing<true>::places(rows) : Dealing<false>::places(rows);
    return p.sums_at + places * kOutputs * 4 * p.tokens;
  };
  while (shared_bytes() > kMostShared) blocks *= 2;
  p.input = input;
  p.output = output;
  const Kernel kernel =
      half ? kernel_of<F16Products>(input.x.type, p.tokens) : kernel_of<Bf16Products>(input.x.type, p.tokens);
  launch_streaming("dense gemv", kernel,
                   {dim3(static_cast<unsigned>(blocks)), dim3(kThreads),
                    shared_bytes_behind(input, static_cast<size_t>(shared_bytes()))},
                   stream, p);
}

}  // namespace grinqh::cuda
