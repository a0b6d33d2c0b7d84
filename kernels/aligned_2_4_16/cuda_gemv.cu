// A warp takes a run of units: its lane 0 keeps bulk copies of the next ones in flight into shared memory, so
// that warps wait for nobody while they stream.
#include "cuda/bulk_copy.cuh"
#include "cuda/cluster.cuh"
#include "cuda/gemv_launch.cuh"
#include "cuda/shared_memory.cuh"
#include "kernels/aligned_2_4_16/cuda_gemv.h"
#include "kernels/aligned_2_4_16/gemv_inputs.cuh"
#include "kernels/aligned_2_4_16/gemv_products.cuh"

namespace grinqh::cuda {

namespace {

using Order = Aligned2416Order;

constexpr int kWarps = 16;
constexpr int kSlotBytes = Order::kWideBytes;

// One unit as a block lists those of its rows, and where the last one ends.
struct Unit {
  enum Kind : uint32_t { narrow, wide, outliers };
  static constexpr int kBeginBits = 19;
  uint32_t begin : kBeginBits;  // from the block's first: units of Order::kAlignment bytes
  uint32_t slot8 : 10;          // an eighth of its first slot
  uint32_t last : 1;            // of its row
  uint32_t kind : 2;
};

// Shared memory, in this order: offsets and size.
struct Plan {
  int ring, x, scales, input_sums, sums, totals, begins, units, barriers, groups, factor, bytes;
};

Plan plan_of(const Aligned2416Stream& w, int depth, int tokens) {
  int slots = 0, rows = 0, units = 0;
  for (int i = 0; i < w.layers * w.splits; ++i) {
    const Aligned2416Part& part = w.parts[i];
    slots = part.order.slots() > slots ? part.order.slots() : slots;
    const int most = (part.row_blocks + part.clusters - 1) / part.clusters;
    rows = most > rows ? most : rows;
    units = most * part.most_units > units ? most * part.most_units : units;
  }
  Plan plan{};
  plan.x = plan.ring + kWarps * depth * kSlotBytes;
  plan.scales = plan.x + slots * Order::kGroup * 2 * tokens;
  plan.input_sums = plan.scales + slots * 4 * tokens;
  plan.sums = plan.input_sums + slots * 4 * tokens;
  plan.totals = plan.sums + (kWarps + rows) * Order::kOutputs * 4 * tokens;
  plan.begins = plan.totals + (w.splits > 1 ? rows * Order::kOutputs * 4 * tokens : 0);
  plan.units = plan.begins + (rows + 1) * static_cast<int>(sizeof(RowBlockBegin));
  plan.barriers = plan.units + (units + 2) / 2 * 8;
  plan.groups = plan.barriers + kWarps * depth * 8;
  plan.factor = plan.groups + slots * 2;
  plan.bytes = plan.factor + 33 * 4;
  return plan;
}

struct Problem {
  Aligned2416Stream w;
  int depth, tokens;
  Plan plan;
  GemvInput input;
  GemvOutput output;
};

#if __CUDA_ARCH__ >= 900
// Lists the units of a block's rows, of which `begins` are there; a warp a row.
__device__ void list_units(const Order& order, const RowBlockBegin* begins, int rows, Unit* units) {
  for (int row = threadIdx.x / 32; row <= rows; row += kWarps) {
    Unit* to = units + (begins[row].unit - begins[0].unit);
    const uint32_t from = begins[row].runs - begins[0].runs;
    if (row == rows) {
      if (threadIdx.x % 32 == 0) *to = {from, 0, 0, 0};
      break;
    }
    const int count = static_cast<int>(begins[row + 1].unit - begins[row].unit), dense = order.dense_units();
    const uint32_t dense_end = from + order.dense_bytes() / Order::kAlignment;
    const uint32_t of_outliers =
        count > dense ? (begins[row + 1].runs - begins[0].runs - dense_end) / (count - dense) : 0;
    for (int i = threadIdx.x % 32; i < count; i += 32) {
      Unit unit{};
      if (i < dense) {
        unit.kind = i < order.narrow_units ? Unit::narrow : Unit::wide;
        unit.begin = from + order.begin_of(i) / Order::kAlignment;
        unit.slot8 = order.slot_of(i) / 8;
      } else {
        unit.kind = Unit::outliers;
        unit.begin = dense_end + (i - dense) * of_outliers;
      }
      unit.last = i + 1 == count;
      to[i] = unit;
    }
  }
}
#endif

template <bool kAsynchronous, int kTokens>
__global__ void __launch_bounds__(kWarps * 32, kTokens == 1 ? 2 : 1)
    stream_units(const __grid_constant__ Problem p) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) uint8_t shared[];
  let_next_begin();
  bring_norm_weights(p.input, p.w.in);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int splits = p.w.splits, rank = static_cast<int>(blockIdx.x) % splits,
            cluster = static_cast<int>(blockIdx.x) / splits;
  if (splits > 1) arrive_apart();
  int layer = 0;
  while (layer + 1 < p.w.layers && cluster >= p.w.parts[(layer + 1) * splits].first_cluster) ++layer;
  const Aligned2416Part& part = p.w.parts[layer * splits + rank];
  const Order order = part.order;
  // Rows are dealt out evenly: the first `more` clusters have one more.
  const int number = cluster - part.first_cluster;
  const int each = part.row_blocks / part.clusters, more = part.row_blocks - each * part.clusters;
  const int first_row = each * number + min(number, more), rows = each + (number < more);
  const Plan& plan = p.plan;
  auto* sums = reinterpret_cast<float*>(shared + plan.sums);
  auto* begins = reinterpret_cast<RowBlockBegin*>(shared + plan.begins);
  for (int at = threadIdx.x; at <= rows; at += kWarps * 32) {
    const uint32_t before = static_cast<uint32_t>(first_row + at);
    begins[at] = part.begins != nullptr ? part.begins[before]
                                        : RowBlockBegin{before * part.second.runs, before * part.second.unit};
  }
  const uint32_t ring = shared_address(shared + plan.ring + warp * p.depth * kSlotBytes),
                 barriers = shared_address(shared + plan.barriers + warp * p.depth * 8);
  if (lane == 0) {
    for (int slot = 0; slot < p.depth; ++slot) init_barrier(barriers + slot * 8, 1);
    fence_barriers();
  }
  if constexpr (kTokens > 1) {
    // Columns of tokens that are not there.
    for (int at = threadIdx.x; at < (plan.sums - plan.x) / 16; at += kWarps * 32)
      reinterpret_cast<uint4*>(shared + plan.x)[at] = make_uint4(0, 0, 0, 0);
  }
  __syncthreads();
  auto* listed = reinterpret_cast<Unit*>(shared + plan.units);
  list_units(order, begins, rows, listed);
  __syncthreads();

  // Units of this warp, counted from the block's first.
  const int units = static_cast<int>(begins[rows].unit - begins[0].unit);
  const auto begin_of = [&](int w) { return units / kWarps * w + min(w, units % kWarps); };
  const int begin = begin_of(warp), end = begin_of(warp + 1);
  const uint8_t* from = part.units + static_cast<int64_t>(begins[0].runs) * Order::kAlignment;
  const auto fetch = [&](int number_of, uint32_t to, uint32_t barrier) {
    if (lane != 0 || number_of >= end) return;
    const uint32_t at = listed[number_of].begin * Order::kAlignment;
    const int bytes = static_cast<int>(listed[number_of + 1].begin * Order::kAlignment - at);
    expect_bytes(barrier, bytes);
    copy_bulk(from + at, to, bytes, barrier);
  };
  // Synchronous: scales before the codes that they belong to.
  const auto fetch_and_wait = [&](int number_of, uint32_t to, uint32_t barrier, uint32_t& phase) {
    const Unit unit = listed[number_of];
    const uint32_t at = unit.begin * Order::kAlignment;
    const auto run = [&](int begin, int until) {
      if (lane == 0) {
        expect_bytes(barrier, until - begin);
        copy_bulk(from + at + begin, to + begin, until - begin, barrier);
      }
      wait_barrier(barrier, phase);
      phase ^= 1;
    };
    const int bytes = static_cast<int>(listed[number_of + 1].begin * Order::kAlignment - at);
    const int codes = unit.kind == Unit::outliers ? 0 : Order::kZeros;
    run(codes, bytes);
    if (codes > 0) run(0, codes);
  };
  if constexpr (kAsynchronous) {
#pragma unroll 1
    for (int slot = 0; slot < p.depth; ++slot)
      fetch(begin + slot, ring + slot * kSlotBytes, barriers + slot * 8);
  }

  auto* groups = reinterpret_cast<int16_t*>(shared + plan.groups);
  const InputMemory memory{shared + plan.x, reinterpret_cast<float*>(shared + plan.scales),
                           reinterpret_cast<int*>(shared + plan.input_sums), groups,
                           reinterpret_cast<float*>(shared + plan.factor)};
  const int in = static_cast<int>(p.w.in);
  for (int at = threadIdx.x; at < order.slots(); at += kWarps * 32) groups[at] = part.groups[at];
  __syncthreads();
  wait_for_inputs();
  for (int token = 0; token < p.tokens; ++token) {
    if (p.input.x.type == Type::bf16)
      quantize_inputs<kTokens, __nv_bfloat16>(p.input, in, order, token, memory);
    else
      quantize_inputs<kTokens, float>(p.input, in, order, token, memory);
  }
  __syncthreads();

  const auto units_before = [&](int row) { return static_cast<int>(begins[row].unit - begins[0].unit); };
  int row = 0;
  for (int at = lane; at < rows; at += 32) row += units_before(at + 1) <= begin;
  row = static_cast<int>(__reduce_add_sync(kAllLanes, static_cast<unsigned>(row)));
  uint32_t phase = 0, slot = ring, barrier = barriers;
  const uint32_t ring_end = ring + p.depth * kSlotBytes;
  const uint8_t* unit = shared + plan.ring + warp * p.depth * kSlotBytes;
  float y[2] = {};
#pragma unroll 1
  for (int number_of = begin; number_of < end; ++number_of) {
    const Unit what = listed[number_of];
    const int first_slot = static_cast<int>(what.slot8) * 8;
    const UnitInputs input{memory.x + first_slot * (32 * kTokens), memory.scales + first_slot,
                           memory.sums + first_slot, order.slots()};
    const auto read = [&] {
      __syncwarp();
      if constexpr (kAsynchronous) fetch(number_of + p.depth, slot, barrier);
    };
    if constexpr (kAsynchronous)
      wait_barrier(barrier, phase);
    else
      fetch_and_wait(number_of, slot, barrier, phase);
    if (what.kind == Unit::narrow)
      multiply_unit<false, kTokens>(unit, input, lane, y, read);
    else if (what.kind == Unit::wide)
      multiply_unit<true, kTokens>(unit, input, lane, y, read);
    else {
      add_outliers<kTokens>(unit, input, lane, y);
      read();
    }
    if constexpr (kAsynchronous) slot += kSlotBytes, unit += kSlotBytes, barrier += 8;
    if (slot == ring_end) {
      slot = ring, unit -= p.depth * kSlotBytes, barrier = barriers;
      phase ^= 1;
    }
    if (!what.last && number_of + 1 < end) continue;
      // This warp's share of 16 outputs is done. No other warp and row have the same sum of numbers.
#pragma unroll
    for (int other = kTokens; other < 4; other *= 2) {
      y[0] += __shfl_xor_sync(kAllLanes, y[0], other);
      y[1] += __shfl_xor_sync(kAllLanes, y[1], other);
    }
    if (lane % 4 < kTokens) {
      float* to = sums + ((warp + row) * kTokens + lane % 4) * Order::kOutputs + lane / 4;
      to[0] = y[0];
      to[8] = y[1];
    }
    y[0] = y[1] = 0;
    ++row;
  }
  __syncthreads();

  auto* totals = reinterpret_cast<float*>(shared + plan.totals);
  if (splits > 1) {
    wait_apart();  // the other block has begun
    if (rank == 0) {
      arrive_apart();
      wait_apart();  // its totals are here
    }
  }
  // In the order of warps, whoever came first.
  for (int at = threadIdx.x; at < rows * kTokens * Order::kOutputs; at += kWarps * 32) {
    const int row = at / (kTokens * Order::kOutputs), token = at / Order::kOutputs % kTokens;
    const int output = at % Order::kOutputs;
    const int64_t n = int64_t{first_row + row} * Order::kOutputs + output;
    float sum = 0;
    const int first = units_before(row), last = units_before(row + 1);
#pragma unroll 4
    for (int w = 0; w < kWarps; ++w) {
      if (max(begin_of(w), first) < min(begin_of(w + 1), last))
        sum += sums[((w + row) * kTokens + token) * Order::kOutputs + output];
    }
    if (rank > 0) {
      put_in_block(totals + at, 0, sum);
      continue;
    }
    if (splits > 1) sum += totals[at];
    if (token < p.tokens && n < part.out)
      put_output(p.output, token, part.first_out + n, sum * power_of_two(-kKeptPower));
  }
  if (rank > 0) arrive_apart();
#else
  __trap();
#endif
}

using Kernel = void (*)(Problem);

template <bool kAsynchronous>
Kernel kernel_of(int columns) {
  return columns == 1   ? stream_units<kAsynchronous, 1>
         : columns == 2 ? stream_units<kAsynchronous, 2>
                        : stream_units<kAsynchronous, 4>;
}

void launch(const Aligned2416Stream& w, Dequantization how, const GemvInput& input, const GemvOutput& output,
            Stream stream) {
  const int tokens = static_cast<int>(input.x.rows), columns = tokens == 3 ? 4 : tokens;
  Problem p{};
  p.w = w;
  p.depth = ring_depth(w, columns, how);
  p.tokens = tokens;
  p.plan = plan_of(w, p.depth, columns);
  p.input = input;
  p.output = output;
  const Kernel kernel =
      how == Dequantization::asynchronous ? kernel_of<true>(columns) : kernel_of<false>(columns);
  check_call(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kMostShared),
             "cudaFuncSetAttribute");
  // Without it the multiprocessor keeps no more shared memory than one block needs.
  check_call(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                  cudaSharedmemCarveoutMaxShared),
             "cudaFuncSetAttribute");
  const Aligned2416Part& last = w.parts[w.layers * w.splits - 1];
  launch_early("aligned_2_4_16 gemv", kernel,
               {dim3(static_cast<unsigned>((last.first_cluster + last.clusters) * w.splits)),
                dim3(kWarps * 32), static_cast<size_t>(p.plan.bytes), w.splits},
               stream, p);
}

}  // namespace

void deal_blocks(Aligned2416Stream& w, int multiprocessors) {
  // As few rows for the busiest cluster as there is room for; clusters left over go to whom they help.
  const auto part_of = [&](int layer) -> Aligned2416Part& { return w.parts[layer * w.splits]; };
  const int clusters = multiprocessors / w.splits;
  const auto needed = [&](int rows) {
    int sum = 0;
    for (int i = 0; i < w.layers; ++i) sum += (part_of(i).row_blocks + rows - 1) / rows;
    return sum;
  };
  int rows = 1, most = 1;
  for (int i = 0; i < w.layers; ++i) most = part_of(i).row_blocks > most ? part_of(i).row_blocks : most;
  while (needed(rows) > clusters && rows < most) ++rows;
  int left = clusters - needed(rows), next = 0;
  for (int i = 0; i < w.layers; ++i) {
    const int row_blocks = part_of(i).row_blocks;
    int count = (row_blocks + rows - 1) / rows;
    const int more = row_blocks - count < left ? row_blocks - count : left;
    if (more > 0) {
      count += more;
      left -= more;
    }
    for (int split = 0; split < w.splits; ++split) {
      w.parts[i * w.splits + split].first_cluster = next;
      w.parts[i * w.splits + split].clusters = count;
    }
    next += count;
  }
}

int ring_depth(const Aligned2416Stream& w, int tokens, Dequantization how) {
  for (int i = 0; i < w.layers * w.splits; ++i) {
    const Aligned2416Part& part = w.parts[i];
    const int64_t rows = (part.row_blocks + part.clusters - 1) / part.clusters;
    if (rows * part.most_runs >= int64_t{1} << Unit::kBeginBits) return 0;
  }
  if (how == Dequantization::synchronous) return plan_of(w, 1, tokens).bytes <= kMostShared ? 1 : 0;
  for (int depth = 4; depth >= 2; --depth)
    if (plan_of(w, depth, tokens).bytes <= kHalfShared) return depth;
  for (int depth = 4; depth >= 1; --depth)
    if (plan_of(w, depth, tokens).bytes <= kMostShared) return depth;
  return 0;
}

void aligned_2_4_16_gemv(const Aligned2416Stream& w, Dequantization how, const GemvInput& input,
                         const GemvOutput& output, Stream stream) {
  const ConstView& x = input.x;
  for (int64_t first = 0; first < x.rows; first += 4) {
    GemvInput some = input;
    some.x.rows = x.rows - first < 4 ? x.rows - first : 4;
    some.x.data = static_cast<const char*>(x.data) + first * x.stride * size_of(x.type);
    GemvOutput there = output;
    there.y = output.y.rows_between(first, first + some.x.rows);
    launch(w, how, some, there, stream);
  }
}

}  // namespace grinqh::cuda
