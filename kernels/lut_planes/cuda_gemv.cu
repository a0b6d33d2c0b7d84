// A warp takes a run of chunks through the outputs of its block, of which its lane 0 keeps bulk copies of the
// next ones in flight into shared memory: so long a run that the sums by code, many for each output, are
// seldom added up, and so many runs that all warps have the same to do, whatever the shape. Warps wait for
// each other twice: for the inputs, of which each makes a slice, and where the sums of runs meet.
#include "cuda/gemv_launch.cuh"
#include "cuda/with_bits.cuh"
#include "kernels/lut_planes/cuda_gemv.h"
#include "kernels/lut_planes/cuda_gemv_input.cuh"
#include "kernels/lut_planes/cuda_gemv_product.cuh"
#include "kernels/lut_planes/cuda_gemv_stream.cuh"

namespace grinqh::cuda {

namespace {

// Sixteen codes a pass take a warp's registers twice over.
constexpr int most_warps(int bits) { return bits > 0 && bits <= 3 ? 16 : 8; }
constexpr int kMostChunks = 256;  // of a row: sums of four bits stay below 2^22 (CodeSums::fold())

using Problem = PlanesProblem;

PlanesPlan plan_of(const PlanesStream& w, const PlanesLaunch& launch, int bits, int tokens) {
  const int chunks = w.col_chunks(), rows = (w.row_blocks + launch.blocks - 1) / launch.blocks;
  bool outliers = false;
  for (int i = 0; i < w.part_count; ++i) outliers |= w.parts[i].outlier_rows != nullptr;
  PlanesPlan plan{};
  plan.planes = launch.warps * launch.depth * launch.piece * bits * kPlaneBytes;
  plan.sums = plan.planes + chunks * kInputBytes * tokens;
  plan.numbers = plan.sums + (launch.warps + rows) * tokens * kOutputs * 4;
  plan.outlier_sums = plan.numbers + (outliers ? chunks * 512 * tokens : 0);
  plan.greatest = plan.outlier_sums + (outliers ? rows * kOutputs * tokens * 4 : 0);
  plan.squares = plan.greatest + launch.warps * tokens * 4;
  plan.barriers = (plan.squares + launch.warps * tokens * 4 + 7) / 8 * 8;
  plan.bytes = plan.barriers + launch.warps * launch.depth * 8;
  return plan;
}

#if __CUDA_ARCH__ >= 900
__device__ inline uint32_t lowest_levels(const Problem& p) {
  uint32_t levels = 0;
  for (int i = 0; i < p.w.part_count; ++i) {
    const int level = p.levels.on_device[i] == nullptr ? p.levels.level[i]
                                                       : __ffs(static_cast<int>(p.w.parts[i].stored)) - 1;
    levels |= static_cast<uint32_t>(level) << 4 * i;
  }
  return levels;
}
__device__ inline uint32_t asked_levels(const Problem& p, uint32_t lowest) {
  uint32_t levels = lowest;
  for (int i = 0; i < p.w.part_count; ++i) {
    if (p.levels.on_device[i] == nullptr) continue;
    const int asked = min(int{*p.levels.on_device[i]}, 8);
    const uint32_t below = p.w.parts[i].stored & ((2u << asked) - 1);
    if (below != 0) levels = (levels & ~(15u << 4 * i)) | static_cast<uint32_t>(31 - __clz(below)) << 4 * i;
  }
  return levels;
}

// A run's product with the 16 outputs of a row, from its next chunk on: y of outputs g and g + 8 of a lane,
// its four bits alone, in units of the inputs' integers. here: where the run is; ahead: where it fetches.
template <int kBits, int kTokens>
__device__ __forceinline__ void multiply_row(const Problem& p, Run& here, Run& ahead, uint32_t levels,
                                             const uint16_t* tables, const uint8_t* planes, int lane,
                                             int& slot, uint32_t& phase, float (&y)[kTokens][2]) {
  using Sums = CodeSums<kBits>;
  constexpr bool kCarry = Sums::kPasses == 1 && kTokens == 1;  // sums of all pieces together
  Sums sums;
  typename Sums::Entries entries;
  if (kCarry) {
    sums.clear();
    entries.load(tables, lane, 0);
  }
  const int row = here.row;
  while (here.more() && here.row == row) {
    const int count = here.count(p);
    const uint8_t* weights = here.ring + slot * here.slot_bytes + lane * 16;
    wait_barrier(here.barriers + slot * 8, phase);
#pragma unroll
    for (int token = 0; token < kTokens; ++token) {
      if (token >= p.tokens) break;
      const uint8_t* x = planes + (token * p.col_chunks + here.chunk) * kInputBytes + lane * 16;
#pragma unroll 1
      for (int pass = 0; pass < Sums::kPasses; ++pass) {
        if (!kCarry) {
          sums.clear();
          entries.load(tables, lane, pass);
        }
#pragma unroll 1
        for (int i = 0; i < count; ++i) sums.add(weights + i * here.chunk_bytes, x + i * kInputBytes, pass);
        if (!kCarry) sums.fold(entries, lane, y[token]);
      }
    }
    __syncwarp();
    here.advance(p);
    if (lane == 0) ahead.fetch(p, slot, levels);
    if (++slot == p.depth) {
      slot = 0;
      phase ^= 1;
    }
  }
  if (kCarry) sums.fold(entries, lane, y[0]);
}

// What outliers add beyond what their codes decode to, for `count` times 16 outputs from block `first` on.
// In units of the inputs' integers.
__device__ inline void sum_outliers(const Problem& p, int first, int count, uint32_t levels,
                                    const int16_t* numbers, float* sums) {
  const int lane = threadIdx.x % 32, warps = blockDim.x / 32;
  for (int at = threadIdx.x / 32; at < count * kOutputs; at += warps) {
    const int index = part_of(p, first + at / kOutputs), bits = bits_in(levels, index);
    const PlanesPart& part = p.w.parts[index];
    const int row = (first + at / kOutputs - part.first_block) * kOutputs + at % kOutputs;
    const bool has = part.outlier_rows != nullptr && row < part.out;
    const uint32_t begin = has ? part.outlier_rows[row] : 0, end = has ? part.outlier_rows[row + 1] : 0;
    const uint16_t* table = part.tables + part.table_offset[bits] + (int64_t{row} << bits);
    float y[4] = {};
    for (uint32_t k = begin + lane; k < end; k += 32) {
      const uint32_t column = p.wide_columns ? static_cast<const uint32_t*>(part.outlier_columns)[k]
                                             : static_cast<const uint16_t*>(part.outlier_columns)[k];
      const float beyond =
          float_of_half(part.outlier_values[k]) - float_of_half(table[part.outlier_codes[k] >> (8 - bits)]);
#pragma unroll
      for (int token = 0; token < 4; ++token)
        if (token < p.tokens)
          y[token] += beyond * static_cast<float>(numbers[token * p.col_chunks * 256 + column]);
    }
#pragma unroll
    for (int token = 0; token < 4; ++token) {
      if (token >= p.tokens) break;
      for (int other = 16; other > 0; other /= 2) y[token] += __shfl_xor_sync(0xffffffffu, y[token], other);
      if (lane == 0) sums[at * p.tokens + token] = y[token];
    }
  }
}
#endif

// kBits = 0: of any level, perhaps not known before the inputs are.
template <int kBits, int kTokens>
__global__ void __launch_bounds__(most_warps(kBits) * 32, 1)
    multiply_planes(const __grid_constant__ Problem p) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) uint8_t shared[];
  let_next_begin();
  bring_norm_weights(p.input, p.w.in);
  const PlanesPlan& plan = p.plan;
  const int warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  uint8_t* planes = shared + plan.planes;
  auto* numbers = p.outliers ? reinterpret_cast<int16_t*>(shared + plan.numbers) : nullptr;
  auto* sums = reinterpret_cast<float*>(shared + plan.sums);
  auto* outlier_sums = reinterpret_cast<float*>(shared + plan.outlier_sums);
  auto* greatest = reinterpret_cast<uint32_t*>(shared + plan.greatest);
  auto* squares = reinterpret_cast<float*>(shared + plan.squares);

  // Outputs are dealt out evenly, and so are a block's chunks to warps: the first ones have one more.
  const auto begin_of = [](int all, int among, int i) { return all / among * i + min(i, all % among); };
  const int blocks = gridDim.x, block = blockIdx.x;
  const int first_block = begin_of(p.w.row_blocks, blocks, block);
  const int rows = begin_of(p.w.row_blocks, blocks, block + 1) - first_block;
  const auto run_begin = [&](int w) { return begin_of(rows * p.col_chunks, warps, w); };
  Run here;
  here.first_block = first_block;
  here.chunk_bytes = p.slot_planes * kPlaneBytes;
  here.slot_bytes = p.piece * here.chunk_bytes;
  here.ring = shared + plan.ring + warp * p.depth * here.slot_bytes;
  here.ring_at = shared_address(here.ring);
  here.barriers = shared_address(shared + plan.barriers + warp * p.depth * 8);
  here.row = run_begin(warp) / p.col_chunks;
  here.chunk = run_begin(warp) - here.row * p.col_chunks;
  here.left = run_begin(warp + 1) - run_begin(warp);

  Run ahead = here;
  const uint32_t lowest = lowest_levels(p);
  if (lane == 0) {
    for (int slot = 0; slot < p.depth; ++slot) init_barrier(here.barriers + slot * 8, 1);
    fence_barriers();
    Run known = here;
    for (int slot = 0; slot < p.depth; ++slot) {
      if (kBits > 0) {
        ahead.fetch(p, slot, lowest);
      } else if (known.more()) {  // what every level reads
        const int index = known.part(p), bits = bits_in(lowest, index);
        expect_more_bytes(known.barriers + slot * 8, known.count(p) * bits * kPlaneBytes);
        known.copy_planes(p, slot, 0, bits, p.w.parts[index], known.count(p));
        known.advance(p);
      }
    }
  }
  wait_for_inputs();
  const uint32_t levels = kBits > 0 ? lowest : asked_levels(p, lowest);
  if (kBits == 0 && lane == 0) {
    for (int slot = 0; slot < p.depth && ahead.more(); ++slot) {
      const int index = ahead.part(p), bits = bits_in(levels, index), before = bits_in(lowest, index),
                count = ahead.count(p);
      expect_bytes(ahead.barriers + slot * 8, count * (bits - before) * kPlaneBytes);
      if (bits > before) ahead.copy_planes(p, slot, before, bits, p.w.parts[index], count);
      ahead.advance(p);
    }
  }

  float scales[kTokens];
  const int slice = begin_of(p.col_chunks, warps, warp), slice_end = begin_of(p.col_chunks, warps, warp + 1);
#pragma unroll
  for (int token = 0; token < kTokens; ++token) {
    if (token >= p.tokens) break;
    const auto greatest_of_all = [&](uint32_t of_slice) {
      uint32_t* of_warps = greatest + token * warps;
      if (lane == 0) of_warps[warp] = of_slice;
      __syncthreads();
      return __reduce_max_sync(0xffffffffu, lane < warps ? of_warps[lane] : 0);
    };
    uint8_t* to = planes + token * p.col_chunks * kInputBytes;
    int16_t* as_numbers = numbers == nullptr ? nullptr : numbers + token * p.col_chunks * 256;
    const auto make = [&]<class T>() {
      return make_slice<T>(p.input, static_cast<int>(p.w.in), token, slice, slice_end - slice, lane, to,
                           as_numbers, greatest_of_all);
    };
    const SliceScale made = p.input.x.type == Type::bf16 ? make.template operator()<__nv_bfloat16>()
                                                         : make.template operator()<float>();
    scales[token] = made.scale;
    if (lane == 0) squares[token * warps + warp] = made.squares;
  }
  __syncthreads();

  int slot = 0;
  uint32_t phase = 0;
  while (here.more()) {
    const int row = here.row, index = here.part(p), bits = kBits > 0 ? kBits : bits_in(levels, index);
    const PlanesPart& part = p.w.parts[index];
    float y[kTokens][2] = {};
    const auto multiply = [&]<int kWidth>() {
      const uint16_t* tables = part.tables + part.table_offset[kWidth] +
                               (int64_t{first_block + row - part.first_block} * kOutputs << kWidth);
      multiply_row<kWidth, kTokens>(p, here, ahead, levels, tables, planes, lane, slot, phase, y);
    };
    if constexpr (kBits > 0) {
      multiply.template operator()<kBits>();
    } else {
      with_bits(bits, multiply);
    }
    // No other warp and row have the same sum of numbers.
    float* to = sums + (warp + row) * kTokens * kOutputs + lane / 4;
#pragma unroll
    for (int token = 0; token < kTokens; ++token) {
      if (token >= p.tokens) break;
#pragma unroll
      for (int output = 0; output < 2; ++output) {
        float& sum = y[token][output];
        sum *= static_cast<float>(1 << lane % 4 * 4);
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        if (lane % 4 == 0) to[token * kOutputs + output * 8] = sum;
      }
    }
  }
  if (p.outliers) sum_outliers(p, first_block, rows, levels, numbers, outlier_sums);
  __syncthreads();

  // Sums of runs meet, in the order of warps.
  for (int at = threadIdx.x; at < rows * kTokens * kOutputs; at += blockDim.x) {
    const int row = at / (kTokens * kOutputs), token = at / kOutputs % kTokens, output = at % kOutputs;
    const PlanesPart& part = p.w.parts[part_of(p, first_block + row)];
    const int n = (first_block + row - part.first_block) * kOutputs + output;
    if (token >= p.tokens || n >= part.out) continue;
    float sum = p.outliers ? outlier_sums[(row * kOutputs + output) * p.tokens + token] : 0.0f;
    for (int w = 0; w < warps; ++w)
      if (max(run_begin(w), row * p.col_chunks) < min(run_begin(w + 1), (row + 1) * p.col_chunks))
        sum += sums[((w + row) * kTokens + token) * kOutputs + output];
    float scale = scales[0];
#pragma unroll
    for (int other = 1; other < kTokens; ++other) scale = token == other ? scales[other] : scale;
    put_output(p.output, token, part.first_out + n,
               sum * scale * output_factor(p.input, p.w.in, squares + token * warps));
  }
#else
  __trap();
#endif
}

using Kernel = void (*)(Problem);

// Of their own for the widths that decoding is about; the others share one that takes any.
template <int kTokens>
Kernel kernel_of(int bits) {
  return bits == 2   ? multiply_planes<2, kTokens>
         : bits == 3 ? multiply_planes<3, kTokens>
         : bits == 4 ? multiply_planes<4, kTokens>
                     : multiply_planes<0, kTokens>;
}

// The level of all parts if it is one and known here, else 0; and the greatest that may be read.
int common_level(const PlanesStream& w, const PlanesLevels& levels, int& most) {
  int common = levels.level[0];
  most = 0;
  for (int i = 0; i < w.part_count; ++i) {
    const bool known = levels.on_device[i] == nullptr;
    if (!known || levels.level[i] != common) common = 0;
    const int reach = known ? levels.level[i] : w.parts[i].planes;
    most = reach > most ? reach : most;
  }
  return common;
}

}  // namespace

PlanesLaunch planes_launch(const PlanesStream& w, int bits, int tokens, int multiprocessors) {
  PlanesLaunch launch;
  launch.blocks = w.row_blocks < multiprocessors ? w.row_blocks : multiprocessors;
  struct Cut {
    int warps, piece, depth;
  };
  const Cut best = bits <= 3 ? Cut{8, 2, 3} : Cut{8, 4, 2};  // measured: NOTES.md
  for (const Cut& cut : {best, Cut{8, 2, 2}, Cut{8, 2, 1}, Cut{8, 1, 1}}) {
    launch.warps = cut.warps;
    launch.piece = cut.piece;
    launch.depth = cut.depth;
    launch.shared_bytes = plan_of(w, launch, bits, tokens).bytes;
    if (launch.shared_bytes <= kMostShared && w.col_chunks() <= kMostChunks) return launch;
  }
  launch.depth = 0;
  return launch;
}

void lut_planes_gemv(const PlanesStream& w, const PlanesLevels& levels, const PlanesLaunch& launch,
                     const GemvInput& input, const GemvOutput& output, Stream stream) {
  Problem p{};
  const int tokens = input.x.rows == 1 ? 1 : 4, bits = common_level(w, levels, p.slot_planes);
  p.w = w;
  p.levels = levels;
  p.col_chunks = w.col_chunks();
  p.depth = launch.depth;
  p.piece = launch.piece;
  p.tokens = static_cast<int>(input.x.rows);
  for (int i = 0; i < w.part_count; ++i) p.outliers |= w.parts[i].outlier_rows != nullptr;
  p.wide_columns = w.in > 65536;
  p.plan = plan_of(w, launch, p.slot_planes, tokens);
  p.input = input;
  p.output = output;
  const Kernel kernel = tokens == 1 ? kernel_of<1>(bits) : kernel_of<4>(bits);
  launch_streaming("lut_planes gemv", kernel,
                   {dim3(static_cast<unsigned>(launch.blocks)),
                    dim3(static_cast<unsigned>(launch.warps) * 32), static_cast<size_t>(p.plan.bytes)},
                   stream, p);
}

void lut_planes_gemv(const PlanesStream& w, const PlanesLevels& levels, const GemvInput& input,
                     const GemvOutput& output, int multiprocessors, Stream stream) {
  int most = 0;
  common_level(w, levels, most);
  const ConstView& x = input.x;
  for (int64_t first = 0; first < x.rows;) {
    int64_t count = x.rows - first < 4 ? x.rows - first : 4;
    PlanesLaunch launch = planes_launch(w, most, count == 1 ? 1 : 4, multiprocessors);
    if (launch.depth == 0) {  // one after another
      count = 1;
      launch = planes_launch(w, most, 1, multiprocessors);
    }
    GemvInput some = input;
    some.x.rows = count;
    some.x.data = static_cast<const char*>(x.data) + first * x.stride * size_of(x.type);
    GemvOutput there = output;
    there.y = output.y.rows_between(first, first + count);
    lut_planes_gemv(w, levels, launch, some, there, stream);
    first += count;
  }
}

}  // namespace grinqh::cuda
