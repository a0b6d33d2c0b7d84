// The chunks of a block's rows go round its warps, and through the slots of a ring in shared memory: whoever
// has multiplied a chunk asks for the one that comes into its slot next, by a bulk copy, so that warps wait
// for nobody while they stream. Inputs become 16-bit integers with a scale a group, as a high and a low
// signed byte; the tensor cores sum products with the codes exactly. A code is used where it lies in its
// byte: one AND takes the codes of a product, and the factor that its place means is taken off the sums.
//
// One token: every product has the bytes of all four groups in its eight columns, of which those of its own
// group, 2 q and 2 q + 1, are used: lane 4 g + q takes the sums of group q, and every lane scales one group.
// Several tokens: token t has columns 2 t and 2 t + 1.
//
// Where the inputs of all tokens do not fit into one block's shared memory, the two blocks of a cluster make
// a part each, and add up their sums through each other's.
#include "cuda/bulk_copy.cuh"
#include "cuda/cluster.cuh"
#include "cuda/gemv_launch.cuh"
#include "cuda/gemv_operands.cuh"
#include "cuda/shared_memory.cuh"
#include "kernels/group_affine/cuda_gemv.h"
#include "kernels/group_affine/gemv_inputs.cuh"
#include "kernels/group_affine/gemv_scheduling.cuh"
#include "kernels/group_affine/gemv_sums.cuh"

namespace grinqh::cuda {

namespace {

constexpr int kWarps = 16, kThreads = kWarps * 32;
constexpr int kOutputs = GemvOrder::kOutputs;

// Warps leave their sums of 16 outputs in a table of so many row blocks, and another while it is added up.
constexpr int kTableBytes = 16 * 1024;

// Integer zero points of a block's chunks come by one copy if they are so many bytes at most, else a chunk's
// beside it: a copy of few bytes takes as long to ask for as a large one.
constexpr int kMostZeroBytes = 8 * 1024;

// Shared memory, in this order: offsets and size.
struct Plan {
  int ring, x, groups, zeros, table, partials, barriers, squares, bytes;
  int table_rows, tables, barrier_count, slot_bytes;
  bool zeros_apart;
};
Plan plan_of(const GroupAffineStream& w, const StreamShape& shape, int tokens) {
  const int col_chunks = (static_cast<int>(w.col_chunks()) + shape.cluster_blocks - 1) / shape.cluster_blocks;
  const int row_blocks = static_cast<int>(w.row_blocks());
  const int most = (row_blocks + shape.clusters - 1) / shape.clusters, sum_bytes = kOutputs * 4 * tokens;
  Plan plan{};
  plan.table_rows = most < kTableBytes / (kWarps * sum_bytes) ? most : kTableBytes / (kWarps * sum_bytes);
  plan.tables = most <= plan.table_rows ? 1 : 2;
  const int zero_bytes = most * col_chunks * w.order.zero_bytes();
  plan.zeros_apart = zero_bytes > 0 && zero_bytes <= kMostZeroBytes && shape.cluster_blocks == 1;
  plan.slot_bytes = plan.zeros_apart ? w.order.chunk_bytes() : w.order.slot_bytes();
  plan.x = plan.ring + shape.slots * plan.slot_bytes;
  plan.groups = plan.x + IntegerInputs::bytes_a_token(col_chunks) * tokens;
  plan.zeros = plan.groups + col_chunks * (GemvOrder::kInputs / w.order.group) * 8 * tokens;
  plan.table = plan.zeros + (plan.zeros_apart ? zero_bytes : 0);
  plan.partials = plan.table + plan.tables * plan.table_rows * kWarps * sum_bytes;
  plan.barriers = plan.partials +
                  (shape.cluster_blocks > 1 ? plan.tables * (plan.table_rows * sum_bytes + tokens * 4) : 0);
  plan.barriers = (plan.barriers + 7) / 8 * 8;
  // Of slots, as many times as make one warp wait for all chunks of a barrier: by itself it cannot miss a
  // phase. One more for the zero points.
  for (plan.barrier_count = shape.slots; plan.barrier_count % kWarps != 0;) plan.barrier_count += shape.slots;
  plan.squares = plan.barriers + (plan.barrier_count + 1) * 8;
  plan.bytes = plan.squares + kWarps * 4 * tokens;
  return plan;
}

struct Problem {
  GroupAffineStream w;
  int row_blocks, col_chunks, clusters, cluster_blocks, slots, tokens;
  int early;      // chunks under way at once before inputs are there
  int slot_step;  // from a warp's chunk to its next
  int groups;     // of a token
  SlotPlaces slot;
  Plan plan;
  GemvInput input;
  GemvOutput output;
};

// kBlocks: of four groups, in a chunk.
template <int kBits, int kSets, int kBlocks>
__global__ void __launch_bounds__(kThreads, kSets == 0 ? 2 : 1)
    stream_chunks(const __grid_constant__ Problem p) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) uint8_t shared[];
  let_next_begin();
  bring_norm_weights(p.input, p.w.in);
  constexpr int kColumns = Sums<kBits, kSets>::kColumns;
  int thread = thread_below<kThreads>(), warp = thread / 32, lane = thread % 32;
  const int tokens = kSets == 0 ? 1 : p.tokens;
  const int cluster = blockIdx.x / p.cluster_blocks, rank = blockIdx.x - cluster * p.cluster_blocks;
  // Rows are dealt out evenly: the first `more` clusters have one more.
  const int each = p.row_blocks / p.clusters, more = p.row_blocks - each * p.clusters;
  const int first_row = each * cluster + min(cluster, more), rows = each + (cluster < more);
  const int first_col = p.col_chunks * rank / p.cluster_blocks;
  const int cols = p.col_chunks * (rank + 1) / p.cluster_blocks - first_col;

  // Chunk c of the block's lies in slot c % slots, warp c % kWarps multiplies it, and waits for it at barrier
  // c % barrier_count.
  const int count = rows * cols, slots = p.slots;
  const uint8_t* const ring = shared + p.plan.ring;
  const uint32_t barriers = shared_address(shared + p.plan.barriers);
  const uint32_t zero_barrier = barriers + p.plan.barrier_count * 8;
  const int64_t first_chunk = int64_t{first_row} * p.col_chunks + first_col;
  const auto fetch = [&](int chunk, int slot, int barrier_index) {
    const uint32_t to = shared_address(ring) + slot * p.plan.slot_bytes,
                   barrier = barriers + barrier_index * 8;
    const int other_cols = p.col_chunks - cols;
    const int64_t at = first_chunk + chunk + (other_cols == 0 ? 0 : chunk / cols * other_cols);
    const bool with_zeros = p.slot.zero_bytes > 0 && !p.plan.zeros_apart;
    expect_bytes(barrier, p.slot.chunk_bytes + (with_zeros ? p.slot.zero_bytes : 0));
    copy_bulk(p.w.chunks + at * p.slot.chunk_bytes, to, p.slot.chunk_bytes, barrier);
    if (with_zeros)
      copy_bulk(p.w.zeros + at * p.slot.zero_bytes, to + p.slot.chunk_bytes, p.slot.zero_bytes, barrier);
  };
  if (lane == 0) {
#pragma unroll 1
    for (int b = warp; b <= p.plan.barrier_count; b += kWarps) init_barrier(barriers + b * 8, 1);
    fence_barriers();
  }
  __syncthreads();
  if (lane == 0) {
    if (p.plan.zeros_apart && warp == kWarps - 1) {
      expect_bytes(zero_barrier, count * p.slot.zero_bytes);
      copy_bulk(p.w.zeros + first_chunk * p.slot.zero_bytes, shared_address(shared + p.plan.zeros),
                count * p.slot.zero_bytes, zero_barrier);
    }
#pragma unroll 1
    for (int c = warp; c < min(slots, count); c += kWarps) {
      if (c >= p.early) wait_barrier(barriers + (c - p.early) * 8, 0);
      fetch(c, c, c);
    }
  }
  const IntegerInputs inputs{.bytes = shared + p.plan.x,
                             .groups = reinterpret_cast<float2*>(shared + p.plan.groups),
                             .squares = reinterpret_cast<float*>(shared + p.plan.squares),
                             .tokens = tokens,
                             .groups_of_token = p.groups,
                             .first_chunk = first_col,
                             .col_chunks = cols};
  __syncwarp();
  touch(p.output);
  wait_for_inputs();
  if (p.input.x.type == Type::bf16)
    make_integers<__nv_bfloat16, kBlocks>(p.input, p.w.column_scales, static_cast<int>(p.w.in), inputs);
  else
    make_integers<float, kBlocks>(p.input, p.w.column_scales, static_cast<int>(p.w.in), inputs);
  if (p.plan.zeros_apart) wait_barrier(zero_barrier, 0);
  __syncthreads();

  // Read again, to leave registers to the inputs.
  thread = thread_below<kThreads>();
  warp = thread / 32;
  lane = thread % 32;
  const int t = lane % 4;
  constexpr int kSteps = GemvOrder::kSteps, kBlockSteps = kSteps / kBlocks;
  const bool half_zeros = p.w.row_zeros != nullptr || p.slot.block_bytes > 128;
  const int q_bytes = kSets == 0 ? 0 : tokens * 64, step_bytes = tokens * 256;
  int column[kColumns];  // columns that are nobody's repeat the last
#pragma unroll
  for (int set = 0; set < kColumns; ++set)
    column[set] = (kSets == 0 ? lane / 4 : min(set * 8 + lane / 4, 2 * tokens - 1)) * 32 + t * 8;
  int slot = warp, barrier_index = warp, row = 0, col = warp;
  while (slot >= slots) slot -= slots;
  uint32_t phase = 0;
  const auto turn = [&] {
    while (col >= cols) {
      col -= cols;
      ++row;
    }
  };
  turn();
  Sums<kBits, kSets> sums;
  float y[kColumns][2] = {};
  const int sum_floats = p.plan.table_rows * kOutputs * tokens;
  auto* const tables = reinterpret_cast<float*>(shared + p.plan.table);
  auto* const all_partials = reinterpret_cast<float*>(shared + p.plan.partials);
  int turn_of_table = 0;
  for (int table_row = 0; table_row < rows; table_row += p.plan.table_rows) {
    const int end_row = min(table_row + p.plan.table_rows, rows);
    float* table = tables + turn_of_table * kWarps * sum_floats;
    while (row < end_row) {
      // Symmetric layers: the middle of the codes.
      uint32_t row_zeros = 1u << (kBits - 1) | 1u << (2 * kBits - 1);
      if (p.w.row_zeros != nullptr)
        row_zeros = *reinterpret_cast<const uint32_t*>(p.w.row_zeros + (int64_t{first_row} + row) * kOutputs +
                                                       lane / 4 * 2);
      const int chunk = row * cols + col;
      const uint8_t* data = ring + slot * p.plan.slot_bytes;
      const uint8_t* zeros_at =
          p.plan.zeros_apart ? shared + p.plan.zeros + chunk * p.slot.zero_bytes : data + p.slot.chunk_bytes;
      const uint8_t* b_at[kColumns];
#pragma unroll
      for (int set = 0; set < kColumns; ++set)
        b_at[set] = inputs.bytes + col * kSteps * step_bytes + column[set];
      const float2* of_x = inputs.groups + col * kBlocks * 4;
      wait_barrier(barriers + barrier_index * 8, phase);
      Codes<kBits> codes;
      Grid<kBits, kSets> grid;
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        if (step % 2 == 0) codes.load(data, step / 2, lane);
        if (step % kBlockSteps == 0) {
          grid.load(p.slot, data, zeros_at, step / kBlockSteps, lane, row_zeros);
          sums.clear();
        }
        sums.add(codes, step % 2, b_at, q_bytes);
#pragma unroll
        for (int set = 0; set < kColumns; ++set) b_at[set] += step_bytes;
        if ((step + 1) % kBlockSteps == 0)
          sums.scale(grid, half_zeros, tokens, p.groups, of_x + step / kBlockSteps * 4, t, y);
      }
      __syncwarp();
      if (lane == 0 && chunk + slots < count) {
        const int next = barrier_index + slots;
        fetch(chunk + slots, slot, next < p.plan.barrier_count ? next : next - p.plan.barrier_count);
      }
      slot += p.slot_step;
      if (slot >= slots) slot -= slots;
      barrier_index += kWarps;
      if (barrier_index >= p.plan.barrier_count) {
        barrier_index -= p.plan.barrier_count;
        phase ^= 1;
      }
      const int of_row = row;
      col += kWarps;
      turn();
      if (row == of_row) continue;
      // This warp's share of 16 outputs is done.
      float* to = table + (of_row - table_row) * tokens * (kWarps * kOutputs) + warp * kOutputs + lane / 4;
      if constexpr (kSets == 0) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          for (int other = 1; other < 4; other *= 2)
            y[0][half] += __shfl_xor_sync(0xffffffffu, y[0][half], other);
          if (t == 0) to[half * 8] = y[0][half];
          y[0][half] = 0;
        }
      } else {
#pragma unroll
        for (int set = 0; set < kColumns; ++set)
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const int token = set * 4 + t;
            if (token < tokens) to[token * (kWarps * kOutputs) + half * 8] = y[set][half];
            y[set][half] = 0;
          }
      }
    }
    __syncthreads();

    // In the order of kWarps, whoever came first: those that had a chunk of the row.
    const auto sum_of_warps = [&](int at) {
      const int sums_at = at / kOutputs, r = sums_at / tokens, first_warp = (table_row + r) * cols;
      const float* of_warps = table + sums_at * (kWarps * kOutputs) + at % kOutputs;
      float sum = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w)
        if (((w - first_warp) & (kWarps - 1)) < cols) sum += of_warps[w * kOutputs];
      return sum;
    };
    const auto put = [&](int at, float sum, float factor) {
      const int output = at % kOutputs, r = at / kOutputs / tokens, token = at / kOutputs - r * tokens;
      const int64_t block_row = int64_t{first_row} + table_row + r, n = block_row * kOutputs + output;
      if (n >= p.w.out) return;
      if (p.w.order.per_channel)
        sum *= float_of_half(p.w.row_scales[block_row * kOutputs + output % 8 * 2 + output / 8]);
      put_output(p.output, token, n, sum * factor);
    };
    const int sums_here = (end_row - table_row) * tokens * kOutputs;
    if (p.cluster_blocks == 1) {
      for (int at = thread; at < sums_here; at += kThreads) {
        const float sum = sum_of_warps(at);
        float factor = 1;
        if (p.input.form == GemvInput::Form::rms_norm) {
          const int in = not_before(static_cast<int>(p.w.in));
          factor = output_factor(p.input, in, inputs.squares + at / kOutputs % tokens * kWarps);
        }
        put(at, sum, factor);
      }
    } else {
      // In the order of blocks. Behind the sums: those of the squares.
      float* partials = all_partials + turn_of_table * (sum_floats + tokens);
      for (int at = thread; at < sums_here; at += kThreads) partials[at] = sum_of_warps(at);
      if (thread < tokens)
        partials[sum_floats + thread] = sum_of_squares(p.input, inputs.squares + thread * kWarps);
      wait_for_cluster();
      for (int at = rank * kThreads + thread; at < sums_here; at += kThreads * p.cluster_blocks) {
        const int token = at / kOutputs % tokens;
        float sum = 0, square = 0;
        for (int other = 0; other < p.cluster_blocks; ++other) {
          sum += of_block(partials + at, other);
          square += of_block(partials + sum_floats + token, other);
        }
        put(at, sum, factor_of_square(p.input, p.w.in, square));
      }
    }
    turn_of_table ^= 1;
  }
  if (p.cluster_blocks > 1) wait_for_cluster();  // others may still read from here
#else
  __trap();
#endif
}

using Kernel = void (*)(Problem);

template <int kSets, int kBlocks>
Kernel kernel_of(int bits) {
  return bits == 2   ? stream_chunks<2, kSets, kBlocks>
         : bits == 3 ? stream_chunks<3, kSets, kBlocks>
         : bits == 4 ? stream_chunks<4, kSets, kBlocks>
                     : stream_chunks<8, kSets, kBlocks>;
}
template <int kBlocks>
Kernel kernel_of(int bits, int64_t tokens) {
  return tokens == 1   ? kernel_of<0, kBlocks>(bits)
         : tokens <= 4 ? kernel_of<1, kBlocks>(bits)
                       : kernel_of<2, kBlocks>(bits);
}
Kernel kernel_of(const GemvOrder& order, int64_t tokens) {
  return order.blocks() == 1   ? kernel_of<1>(order.bits, tokens)
         : order.blocks() == 2 ? kernel_of<2>(order.bits, tokens)
                               : kernel_of<4>(order.bits, tokens);
}

}  // namespace

StreamShape stream_shape(const GroupAffineStream& w, int tokens, int multiprocessors) {
  StreamShape shape;
  const auto row_blocks = static_cast<int>(w.row_blocks()), col_chunks = static_cast<int>(w.col_chunks());
  const auto fits = [&](int slots, int64_t room) {
    shape.slots = slots;
    shape.shared_bytes = plan_of(w, shape, tokens).bytes;
    return shape.shared_bytes <= room;
  };
  // Of multiples of eight, or of four, few barriers are to be initialized.
  const auto fewer = [](int slots) {
    const int step = slots > 16 ? 8 : slots > 4 ? 4 : 1;
    return (slots - 1) / step * step;
  };
  // Blocks that meet cost more than all inputs made by each, measured on an H100: two share them only where
  // they do not fit.
  for (shape.cluster_blocks = 1; shape.cluster_blocks <= 2 && shape.cluster_blocks <= col_chunks;
       ++shape.cluster_blocks) {
    const int clusters = multiprocessors / shape.cluster_blocks;
    shape.clusters = row_blocks < clusters ? row_blocks : clusters;
    const int cols = (col_chunks + shape.cluster_blocks - 1) / shape.cluster_blocks;
    const int chunks = (row_blocks + shape.clusters - 1) / shape.clusters * cols;
    // Room for the next launch's block is worth a quarter of the slots where a warp has one chunk; later only
    // what is left beside two slots a warp.
    const int rounds = (chunks + kWarps - 1) / kWarps, useful = (rounds < 7 ? 2 : 3) * kWarps;
    const int most = chunks < useful ? chunks : useful, least = rounds == 1 ? (most * 3 + 3) / 4 : most;
    shape.early_bytes = (rounds < 7 ? 40 : 64) * 1024;
    if (rounds < 7)
      for (int slots = chunks < 40 ? chunks : 40; slots >= least; slots = fewer(slots))
        if (fits(slots, kHalfShared)) return shape;
    for (int slots = most; slots >= 1; slots = fewer(slots))
      if (fits(slots, kMostShared)) return shape;
  }
  shape.slots = 0;
  return shape;
}

void group_affine_gemv(const GroupAffineStream& w, const StreamShape& shape, const GemvInput& input,
                       const GemvOutput& output, Stream stream) {
  const int64_t tokens = input.x.rows;
  Problem p{};
  p.w = w;
  p.row_blocks = static_cast<int>(w.row_blocks());
  p.col_chunks = static_cast<int>(w.col_chunks());
  p.clusters = shape.clusters;
  p.cluster_blocks = shape.cluster_blocks;
  p.slots = shape.slots;
  p.slot_step = kWarps % shape.slots;
  p.groups =
      (p.col_chunks + shape.cluster_blocks - 1) / shape.cluster_blocks * (GemvOrder::kInputs / w.order.group);
  p.slot = SlotPlaces::of(w.order);
  p.plan = plan_of(w, shape, static_cast<int>(tokens));
  p.early = shape.early_bytes / p.plan.slot_bytes + 1;
  p.tokens = static_cast<int>(tokens);
  p.input = input;
  p.output = output;
  const Kernel kernel = kernel_of(w.order, tokens);
  launch_streaming("group_affine gemv", kernel,
                   {dim3(static_cast<unsigned>(shape.clusters * shape.cluster_blocks)), dim3(kThreads),
                    static_cast<size_t>(shape.shared_bytes), shape.cluster_blocks},
                   stream, p);
}

void group_affine_gemv(const GroupAffineStream& w, const GemvInput& input, const GemvOutput& output,
                       int multiprocessors, Stream stream) {
  const ConstView& x = input.x;
  for (int64_t first = 0, count = x.rows; first < x.rows; first += count) {
    GemvInput some = input;
    StreamShape shape;
    // As many at once as find room.
    for (count = x.rows - first;; count = (count + 1) / 2) {
      shape = stream_shape(w, static_cast<int>(count), multiprocessors);
      if (shape.slots > 0 || count == 1) break;
    }
    some.x.rows = count;
    some.x.data = static_cast<const char*>(x.data) + first * x.stride * size_of(x.type);
    GemvOutput there = output;
    there.y = output.y.rows_between(first, first + count);
    group_affine_gemv(w, shape, some, there, stream);
  }
}

}  // namespace grinqh::cuda
