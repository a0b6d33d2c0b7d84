// The chunks of a block's outputs go round its warps: lane 0 of each keeps bulk copies of its next ones in
// flight into shared memory, so that warps wait for each other only where the sums of outputs meet. A warp
// takes a chunk of any width as it comes; inputs lie in the order of the chunks, so that nothing else depends
// on which groups are how wide.
#include "cuda/bulk_copy.cuh"
#include "cuda/gemv_launch.cuh"
#include "cuda/shared_memory.cuh"
#include "kernels/group_mixed/cuda_gemv.h"
#include "kernels/group_mixed/gemv_inputs.cuh"
#include "kernels/group_mixed/gemv_sums.cuh"

namespace grinqh::cuda {

namespace {

constexpr int kWarps = 16, kThreads = kWarps * 32;
constexpr int kOutputs = MixedOrder::kOutputs, kMostBits = MixedOrder::kMostBits;

// Warps leave their sums of 16 outputs in a table of so many rows of chunks, and another while it is added
// up.
constexpr int kTableBytes = 16 * 1024;

// Shared memory, in this order: offsets and size.
struct Plan {
  int ring, slot, x, groups, places, table, barriers, squares, bytes;
  int table_rows, tables;
};
Plan plan_of(const MixedStream& w, const MixedLaunch& launch, int tokens) {
  const int most = (w.row_blocks() + launch.blocks - 1) / launch.blocks, sum_bytes = kOutputs * 4 * tokens;
  const int groups = w.col_chunks() * w.order.groups(), fit = kTableBytes / (kWarps * sum_bytes);
  Plan plan{};
  for (int bits = 1; bits <= kMostBits; ++bits)
    if (w.first[bits + 1] > w.first[bits]) plan.slot = w.order.slot_bytes(bits);  // the widest is the largest
  plan.table_rows = most < fit ? most : fit;
  plan.tables = most <= fit ? 1 : 2;
  plan.x = plan.ring + kWarps * launch.depth * plan.slot;
  plan.groups = plan.x + w.col_chunks() * MixedOrder::kInputs * 2 * tokens;
  plan.places = plan.groups + groups * 8 * tokens;
  plan.table = plan.places + (groups * 2 + 3) / 4 * 4;
  plan.barriers = (plan.table + plan.tables * plan.table_rows * kWarps * sum_bytes + 7) / 8 * 8;
  plan.squares = plan.barriers + kWarps * launch.depth * 8;
  plan.bytes = plan.squares + kWarps * 4 * tokens;
  return plan;
}

struct Problem {
  MixedStream w;
  int row_blocks, cols, depth, tokens, share_bits;
  Plan plan;
  GemvInput input;
  GemvOutput output;
};

// A warp's place in the chunks of its block.
struct Place {
  int row, col;

  __device__ void advance(int by, int cols) {
    for (col += by; col >= cols; col -= cols) ++row;
  }
  // Bits of a code.
  __device__ int width(const MixedStream& w) const {
    int bits = 1;
#pragma unroll
    for (int wider = 2; wider <= kMostBits; ++wider) bits += col >= w.first[wider];
    return bits;
  }
};

#if __CUDA_ARCH__ >= 900
// A chunk and its zero points.
__device__ inline void fetch(const Problem& p, const Place& place, int first_row, uint32_t to,
                             uint32_t barrier) {
  const MixedStream& w = p.w;
  const int bits = place.width(w), nth = place.col - w.first[bits];
  const int chunk_bytes = w.order.chunk_bytes(bits), zero_bytes = w.order.zero_bytes(bits);
  const int64_t row = first_row + place.row;
  expect_bytes(barrier, chunk_bytes + zero_bytes);
  copy_bulk(w.chunks + row * w.row_bytes + w.at[bits] + nth * chunk_bytes, to, chunk_bytes, barrier);
  if (zero_bytes > 0)
    copy_bulk(w.zeros + row * w.zero_row_bytes + w.zeros_at[bits] + nth * zero_bytes, to + chunk_bytes,
              zero_bytes, barrier);
}
#endif

// kBlocks: of four groups, in a chunk.
template <int kSets, int kBlocks>
__global__ void __launch_bounds__(kThreads, kSets == 0 ? 2 : 1)
    stream_mixed(const __grid_constant__ Problem p) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) uint8_t shared[];
  let_next_begin();
  bring_norm_weights(p.input, p.w.in);
  constexpr int kColumns = kColumnsOf<kSets>;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, t = lane % 4;
  const int tokens = kSets == 0 ? 1 : p.tokens, cols = p.cols;
  // Rows are dealt out evenly: the first `more` blocks have one more.
  const int blocks = gridDim.x, block = blockIdx.x, each = p.row_blocks / blocks,
            more = p.row_blocks - each * blocks;
  const int first_row = each * block + min(block, more), rows = each + (block < more);

  const uint8_t* ring = shared + p.plan.ring + warp * p.depth * p.plan.slot;
  const uint32_t ring_at = shared_address(ring),
                 barriers = shared_address(shared + p.plan.barriers + warp * p.depth * 8);
  Place next{0, 0};  // of this warp's chunks
  next.advance(warp, cols);
  const auto fetch_into = [&](int slot) {
    fetch(p, next, first_row, ring_at + slot * p.plan.slot, barriers + slot * 8);
    next.advance(kWarps, cols);
  };
  if (lane == 0) {
    for (int slot = 0; slot < p.depth; ++slot) init_barrier(barriers + slot * 8, 1);
    fence_barriers();
    for (int slot = 0; slot < p.depth && next.row < rows; ++slot) fetch_into(slot);
  }
  auto* places = reinterpret_cast<int16_t*>(shared + p.plan.places);
  const MixedInputs inputs{.bytes = shared + p.plan.x,
                           .groups = reinterpret_cast<float2*>(shared + p.plan.groups),
                           .squares = reinterpret_cast<float*>(shared + p.plan.squares),
                           .places = places,
                           .tokens = tokens,
                           .group_count = cols * kBlocks * 4,
                           .share_bits = p.share_bits};
  for (int group = threadIdx.x; group < inputs.group_count; group += kThreads)
    places[group] = p.w.groups[group];
  __syncthreads();
  wait_for_inputs();
  if (p.input.x.type == Type::bf16)
    make_mixed_inputs<__nv_bfloat16>(p.input, static_cast<int>(p.w.in), inputs);
  else
    make_mixed_inputs<float>(p.input, static_cast<int>(p.w.in), inputs);
  __syncthreads();

  int column[kColumns];  // columns that are nobody's repeat the last
#pragma unroll
  for (int set = 0; set < kColumns; ++set)
    column[set] = (kSets == 0 ? lane / 4 : min(set * 8 + lane / 4, 2 * tokens - 1)) * 32 + t * 8;
  Place here{0, 0};
  here.advance(warp, cols);
  int slot = 0, turn = 0;
  uint32_t phase = 0;
  const int sum_floats = p.plan.table_rows * kOutputs * tokens;
  for (int table_row = 0; table_row < rows; table_row += p.plan.table_rows) {
    const int end_row = min(table_row + p.plan.table_rows, rows);
    float* table = reinterpret_cast<float*>(shared + p.plan.table) + turn * kWarps * sum_floats;
    turn ^= 1;
    float y[kColumns][2] = {};
    while (here.row < end_row) {
      const int bits = here.width(p.w), of_row = here.row;
      const uint8_t* chunk = ring + slot * p.plan.slot;
      ChunkInputs<kSets> x{{}, inputs.groups + here.col * kBlocks * 4, tokens, inputs.group_count};
#pragma unroll
      for (int set = 0; set < kColumns; ++set)
        x.b[set] = inputs.bytes + here.col * (MixedOrder::kInputs * 2) * tokens + column[set];
      wait_barrier(barriers + slot * 8, phase);
      add_chunk<kSets, kBlocks>(bits, chunk, chunk + p.w.order.chunk_bytes(bits), x, lane, y);
      __syncwarp();
      if (lane == 0 && next.row < rows) fetch_into(slot);
      if (++slot == p.depth) {
        slot = 0;
        phase ^= 1;
      }
      here.advance(kWarps, cols);
      if (here.row == of_row) continue;
      // This warp's share of 16 outputs is done.
      float* to = table + ((of_row - table_row) * tokens * kWarps + warp) * kOutputs + lane / 4;
#pragma unroll
      for (int set = 0; set < kColumns; ++set)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float& sum = y[set][half];
          const int token = kSets == 0 ? 0 : set * 4 + t;
          if (kSets == 0)
            for (int other = 1; other < 4; other *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, other);
          if (kSets == 0 ? t == 0 : token < tokens) to[token * (kWarps * kOutputs) + half * 8] = sum;
          sum = 0;
        }
    }
    __syncthreads();

    // In the order of warps, whoever came first: those that had a chunk of the row.
    for (int at = threadIdx.x; at < (end_row - table_row) * tokens * kOutputs; at += kThreads) {
      const int sums_at = at / kOutputs, r = table_row + sums_at / tokens, token = sums_at % tokens;
      const float* of_warps = table + sums_at * (kWarps * kOutputs) + at % kOutputs;
      float sum = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w)
        if (((w - r * cols) & (kWarps - 1)) < cols) sum += of_warps[w * kOutputs];
      const int64_t n = (int64_t{first_row} + r) * kOutputs + at % kOutputs;
      if (n < p.w.out)
        put_output(p.output, token, n, sum * output_factor(p.input, p.w.in, inputs.squares + token * kWarps));
    }
  }
#else
  __trap();
#endif
}

using Kernel = void (*)(Problem);

template <int kSets>
Kernel kernel_of(int blocks) {
  return blocks == 1 ? stream_mixed<kSets, 1> : blocks == 2 ? stream_mixed<kSets, 2> : stream_mixed<kSets, 4>;
}

}  // namespace

MixedLaunch mixed_launch(const MixedStream& w, int tokens, int multiprocessors) {
  MixedLaunch launch;
  launch.blocks = w.row_blocks() < multiprocessors ? w.row_blocks() : multiprocessors;
  const int chunks = (w.row_blocks() + launch.blocks - 1) / launch.blocks * w.col_chunks();
  const int rounds = (chunks + kWarps - 1) / kWarps, most = rounds < 3 ? rounds : 3;
  const auto fits = [&](int depth, int room) {
    launch.depth = depth;
    launch.shared_bytes = plan_of(w, launch, tokens).bytes;
    return launch.shared_bytes <= room;
  };
  // Room for the next launch's block is worth more than copies in flight, until a warp has many chunks; but
  // one copy in flight is too few for more than three.
  if (rounds < 7)
    for (int depth = most < 2 ? most : 2; depth >= (rounds < 4 ? 1 : 2); --depth)
      if (fits(depth, kHalfShared)) return launch;
  for (int depth = most; depth >= 1; --depth)
    if (fits(depth, kMostShared)) return launch;
  launch.depth = 0;
  return launch;
}

namespace {

void launch_mixed(const MixedStream& w, const MixedLaunch& launch, const GemvInput& input,
                  const GemvOutput& output, Stream stream) {
  Problem p{};
  p.w = w;
  p.row_blocks = w.row_blocks();
  p.cols = w.col_chunks();
  p.depth = launch.depth;
  p.tokens = static_cast<int>(input.x.rows);
  p.share_bits = w.order.group == 32 ? 2 : w.order.group == 64 ? 3 : 4;
  p.plan = plan_of(w, launch, p.tokens);
  p.input = input;
  p.output = output;
  const int blocks = w.order.blocks();
  const Kernel kernel = p.tokens == 1   ? kernel_of<0>(blocks)
                        : p.tokens <= 4 ? kernel_of<1>(blocks)
                                        : kernel_of<2>(blocks);
  launch_streaming(
      "group_mixed gemv", kernel,
      {dim3(static_cast<unsigned>(launch.blocks)), dim3(kThreads), static_cast<size_t>(launch.shared_bytes)},
      stream, p);
}

}  // namespace

void group_mixed_gemv(const MixedStream& w, const GemvInput& input, const GemvOutput& output,
                      int multiprocessors, Stream stream) {
  run_by_tokens(input, output, [&](const GemvInput& some, const GemvOutput& there) {
    const MixedLaunch launch = mixed_launch(w, static_cast<int>(some.x.rows), multiprocessors);
    if (launch.depth == 0 && some.x.rows > 1) return false;
    launch_mixed(w, launch, some, there, stream);
    return true;
  });
}

}  // namespace grinqh::cuda
