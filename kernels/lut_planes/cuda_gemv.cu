// A warp owns a slice of the inputs: it makes their bit planes itself, and for every 16 outputs of its block
// takes the slice's chunks, of which its lane 0 keeps bulk copies of the next ones in flight into shared
// memory. So warps wait for each other only where sums of slices meet, once for several 16 outputs.
#include "cuda/launch.cuh"
#include "kernels/lut_planes/cuda_gemv.h"
#include "kernels/lut_planes/cuda_gemv_input.cuh"
#include "kernels/lut_planes/cuda_gemv_product.cuh"
#include "kernels/lut_planes/cuda_gemv_stream.cuh"

namespace grinqh::cuda {

namespace {

constexpr int kMostWarps = 16;
constexpr int kMostSlice = 256;  // chunks: sums of four bits stay below 2^22 (CodeSums::fold())

// How many blocks of 16 outputs have their sums meet at a time.
template <int kTokens>
constexpr int kBatchOf = kTokens == 1 ? 8 : 2;

using Problem = PlanesProblem;

PlanesPlan plan_of(const PlanesStream& w, const PlanesLaunch& launch, int bits, int tokens) {
  const int chunks = w.col_chunks(), batch = tokens == 1 ? kBatchOf<1> : kBatchOf<4>;
  bool outliers = false;
  for (int i = 0; i < w.part_count; ++i) outliers |= w.parts[i].outlier_rows != nullptr;
  PlanesPlan plan{};
  plan.planes = launch.warps * launch.depth * launch.piece * bits * kPlaneBytes;
  plan.sums = plan.planes + chunks * kInputBytes * tokens;
  plan.numbers = plan.sums + 2 * batch * tokens * launch.warps * kOutputs * 4;
  plan.outlier_sums = plan.numbers + (outliers ? chunks * 512 * tokens : 0);
  plan.chunk_scales = plan.outlier_sums + (outliers ? 2 * batch * kOutputs * tokens * 4 : 0);
  plan.scales = plan.chunk_scales + (outliers ? chunks * tokens * 4 : 0);
  plan.squares = plan.scales + launch.warps * tokens * 4;
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

// The slice's product with 16 outputs: y of outputs g and g + 8 of a lane, its four bits alone.
template <int kBits, int kTokens>
__device__ __forceinline__ void multiply_slice(const Problem& p, Slice& slice, uint32_t levels,
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
  for (int chunk = slice.begin; chunk < slice.end; chunk += p.piece) {
    const int count = min(p.piece, slice.end - chunk);
    const uint8_t* weights = slice.ring + slot * slice.slot_bytes + lane * 16;
    wait_barrier(slice.barriers + slot * 8, phase);
#pragma unroll
    for (int token = 0; token < kTokens; ++token) {
      if (token >= p.tokens) break;
      const uint8_t* x = planes + (token * p.col_chunks + chunk) * kInputBytes + lane * 16;
#pragma unroll(kBits <= 4 ? Sums::kPasses : 1)
      for (int pass = 0; pass < Sums::kPasses; ++pass) {
        if (!kCarry) {
          sums.clear();
          entries.load(tables, lane, pass);
        }
#pragma unroll 1
        for (int i = 0; i < count; ++i) sums.add(weights + i * slice.chunk_bytes, x + i * kInputBytes, pass);
        if (!kCarry) sums.fold(entries, lane, y[token]);
      }
    }
    __syncwarp();
    if (lane == 0) slice.fetch(p, slot, levels);
    if (++slot == p.depth) {
      slot = 0;
      phase ^= 1;
    }
  }
  if (kCarry) sums.fold(entries, lane, y[0]);
}

// What outliers add beyond what their codes decode to, for `count` times 16 outputs from block `first` on.
__device__ inline void sum_outliers(const Problem& p, int first, int count, uint32_t levels,
                                    const int16_t* numbers, const float* chunk_scales, float* sums) {
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
          y[token] += beyond * chunk_scales[token * p.col_chunks + column / 256] *
                      static_cast<float>(numbers[token * p.col_chunks * 256 + column]);
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
__global__ void __launch_bounds__(kMostWarps * 32, 1) multiply_planes(const __grid_constant__ Problem p) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) uint8_t shared[];
  let_next_begin();
  const PlanesPlan& plan = p.plan;
  const int warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  uint8_t* planes = shared + plan.planes;
  auto* numbers = p.outliers ? reinterpret_cast<int16_t*>(shared + plan.numbers) : nullptr;
  auto* sums = reinterpret_cast<float*>(shared + plan.sums);
  auto* outlier_sums = reinterpret_cast<float*>(shared + plan.outlier_sums);
  auto* chunk_scales = reinterpret_cast<float*>(shared + plan.chunk_scales);
  auto* scales = reinterpret_cast<float*>(shared + plan.scales);
  auto* squares = reinterpret_cast<float*>(shared + plan.squares);

  // Outputs are dealt out evenly, and so are chunks to warps: the first ones have one more.
  const auto begin_of = [](int all, int among, int i) { return all / among * i + min(i, all % among); };
  const int blocks = gridDim.x, block = blockIdx.x;
  Slice slice;
  slice.first_block = begin_of(p.w.row_blocks, blocks, block);
  slice.rows = begin_of(p.w.row_blocks, blocks, block + 1) - slice.first_block;
  slice.begin = begin_of(p.col_chunks, warps, warp);
  slice.end = begin_of(p.col_chunks, warps, warp + 1);
  slice.chunk_bytes = p.slot_planes * kPlaneBytes;
  slice.slot_bytes = p.piece * slice.chunk_bytes;
  slice.ring = shared + plan.ring + warp * p.depth * slice.slot_bytes;
  slice.ring_at = shared_address(slice.ring);
  slice.barriers = shared_address(shared + plan.barriers + warp * p.depth * 8);
  slice.row = slice.begin < slice.end ? 0 : slice.rows;
  slice.chunk = slice.begin;

  const uint32_t lowest = lowest_levels(p);
  if (lane == 0) {
    for (int slot = 0; slot < p.depth; ++slot)
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(slice.barriers + slot * 8) : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    Slice ahead = slice;
    for (int slot = 0; slot < p.depth; ++slot) {
      if (kBits > 0) {
        slice.fetch(p, slot, lowest);
      } else if (ahead.more()) {  // what every level reads
        const int index = part_of(p, ahead.first_block + ahead.row), bits = bits_in(lowest, index);
        expect_more_bytes(ahead.barriers + slot * 8, ahead.count(p) * bits * kPlaneBytes);
        ahead.copy_planes(p, slot, 0, bits, p.w.parts[index], ahead.count(p));
        ahead.advance(p);
      }
    }
  }
  wait_for_inputs();
  const uint32_t levels = kBits > 0 ? lowest : asked_levels(p, lowest);
  if (kBits == 0 && lane == 0) {
    for (int slot = 0; slot < p.depth && slice.more(); ++slot) {
      const int index = part_of(p, slice.first_block + slice.row), bits = bits_in(levels, index),
                before = bits_in(lowest, index), count = slice.count(p);
      expect_bytes(slice.barriers + slot * 8, count * (bits - before) * kPlaneBytes);
      if (bits > before) slice.copy_planes(p, slot, before, bits, p.w.parts[index], count);
      slice.advance(p);
    }
  }

  for (int token = 0; token < p.tokens; ++token) {
    SliceScale made{0, 0};
    const int count = slice.end - slice.begin, in = static_cast<int>(p.w.in);
    uint8_t* to = planes + token * p.col_chunks * kInputBytes;
    int16_t* as_numbers = numbers == nullptr ? nullptr : numbers + token * p.col_chunks * 256;
    if (count > 0)
      made = p.input.x.type == Type::bf16
                 ? make_slice<__nv_bfloat16>(p.input, in, token, slice.begin, count, lane, to, as_numbers)
                 : make_slice<float>(p.input, in, token, slice.begin, count, lane, to, as_numbers);
    if (lane == 0) {
      scales[token * warps + warp] = made.scale;
      squares[token * warps + warp] = made.squares;
    }
    if (p.outliers)
      for (int chunk = slice.begin + lane; chunk < slice.end; chunk += 32)
        chunk_scales[token * p.col_chunks + chunk] = made.scale;
  }
  __syncwarp();
  if (p.outliers) __syncthreads();

  constexpr int kBatch = kBatchOf<kTokens>;
  const int active = min(warps, p.col_chunks);
  int slot = 0, half = 0;
  uint32_t phase = 0;
  for (int row = 0; row < slice.rows; ++row) {
    const int index = part_of(p, slice.first_block + row), bits = kBits > 0 ? kBits : bits_in(levels, index);
    const PlanesPart& part = p.w.parts[index];
    float y[kTokens][2] = {};
    const auto multiply = [&]<int kWidth>() {
      const uint16_t* tables = part.tables + part.table_offset[kWidth] +
                               (int64_t{slice.first_block + row - part.first_block} * kOutputs << kWidth);
      multiply_slice<kWidth, kTokens>(p, slice, levels, tables, planes, lane, slot, phase, y);
    };
    if (slice.begin < slice.end) {
      if constexpr (kBits > 0) {
        multiply.template operator()<kBits>();
      } else {
        switch (bits) {
          case 1:
            multiply.template operator()<1>();
            break;
          case 2:
            multiply.template operator()<2>();
            break;
          case 3:
            multiply.template operator()<3>();
            break;
          case 4:
            multiply.template operator()<4>();
            break;
          case 5:
            multiply.template operator()<5>();
            break;
          case 6:
            multiply.template operator()<6>();
            break;
          case 7:
            multiply.template operator()<7>();
            break;
          default:
            multiply.template operator()<8>();
            break;
        }
      }
    }
    float* to =
        sums + (half * kBatch + row % kBatch) * kTokens * warps * kOutputs + warp * kOutputs + lane / 4;
#pragma unroll
    for (int token = 0; token < kTokens; ++token) {
      if (token >= p.tokens) break;
      const float scale = scales[token * warps + warp] * static_cast<float>(1 << lane % 4 * 4);
#pragma unroll
      for (int output = 0; output < 2; ++output) {
        float& sum = y[token][output];
        sum *= scale;
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        if (lane % 4 == 0) to[token * warps * kOutputs + output * 8] = sum;
      }
    }
    if ((row + 1) % kBatch != 0 && row + 1 < slice.rows) continue;

    // Sums of slices meet, in the order of warps. The other half of the buffers fills meanwhile.
    const int first = row / kBatch * kBatch, count = row + 1 - first;
    float* beyond = outlier_sums + half * kBatch * kOutputs * p.tokens;
    if (p.outliers) sum_outliers(p, slice.first_block + first, count, levels, numbers, chunk_scales, beyond);
    __syncthreads();
    for (int at = threadIdx.x; at < count * kTokens * kOutputs; at += blockDim.x) {
      const int r = at / (kTokens * kOutputs), token = at / kOutputs % kTokens, output = at % kOutputs;
      const PlanesPart& here = p.w.parts[part_of(p, slice.first_block + first + r)];
      const int n = (slice.first_block + first + r - here.first_block) * kOutputs + output;
      if (token >= p.tokens || n >= here.out) continue;
      const float* from = sums + ((half * kBatch + r) * kTokens + token) * warps * kOutputs + output;
      float sum = p.outliers ? beyond[(r * kOutputs + output) * p.tokens + token] : 0.0f;
      for (int w = 0; w < active; ++w) sum += from[w * kOutputs];
      if (p.input.form == GemvInput::Form::rms_norm) {
        float all = 0;
        for (int w = 0; w < active; ++w) all += squares[token * warps + w];
        sum *= rsqrtf(all / static_cast<float>(p.w.in) + p.input.epsilon);
      }
      put_output(p.output, token, here.first_out + n, sum);
    }
    half ^= 1;
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

constexpr int64_t kMostShared = 227 * 1024;

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

int64_t planes_shared_bytes(const PlanesStream& w, int bits, int tokens, const PlanesLaunch& launch) {
  return plan_of(w, launch, bits, tokens).bytes;
}

PlanesLaunch planes_launch(const PlanesStream& w, int bits, int tokens, int multiprocessors) {
  PlanesLaunch launch;
  launch.blocks = w.row_blocks < multiprocessors ? w.row_blocks : multiprocessors;
  struct Cut {
    int warps, piece, depth;
  };
  // Measured on an H100. Long inputs: warps that make them are worth more than anything. From four bits on,
  // and where many multiprocessors have nothing to do, it is worth nothing to leave room for the next
  // launch's blocks.
  const bool few = 2 * w.row_blocks <= multiprocessors, is_long = w.col_chunks() >= 32;
  const Cut best = is_long            ? Cut{16, 4, 1}
                   : few && bits <= 2 ? Cut{16, 1, 2}
                   : few              ? Cut{8, 4, 3}
                   : bits <= 3        ? Cut{8, 2, 2}
                                      : Cut{8, 4, 2};
  for (const Cut& cut : {best, Cut{16, 2, 1}, Cut{8, 2, 1}, Cut{8, 1, 1}}) {
    launch.warps = cut.warps;
    launch.piece = cut.piece;
    launch.depth = cut.depth;
    launch.shared_bytes = planes_shared_bytes(w, bits, tokens, launch);
    if (launch.shared_bytes <= kMostShared && w.col_chunks() <= kMostSlice * cut.warps) return launch;
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
  check_call(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, p.plan.bytes),
             "cudaFuncSetAttribute");
  // Without it the multiprocessor keeps no more shared memory than one block needs.
  check_call(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                  cudaSharedmemCarveoutMaxShared),
             "cudaFuncSetAttribute");
  launch_early("lut_planes gemv", kernel,
               {dim3(static_cast<unsigned>(launch.blocks)), dim3(static_cast<unsigned>(launch.warps) * 32),
                static_cast<size_t>(p.plan.bytes)},
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
