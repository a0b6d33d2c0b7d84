// A warp takes a run of chunks: its lane 0 keeps bulk copies of the next ones in flight into shared memory,
// so that warps wait for nobody while they stream. Inputs become 16-bit integers with a scale a group, as a
// high and a low signed byte; the tensor cores sum products with the codes exactly. A code is used where it
// lies in its byte: one AND takes the codes of a product, and the factor that its place means is taken off
// the sums.
//
// One token: a product of group q has the inputs' two bytes in columns 2 q and 2 q + 1 and zeros elsewhere,
// so that lane 4 g + q ends with the sums of group q, and every lane scales one group. Up to four tokens:
// token t has columns 2 t and 2 t + 1, and each group its own accumulators.
#include "cuda/decode.cuh"
#include "cuda/gemv_operands.cuh"
#include "cuda/launch.cuh"
#include "kernels/group_affine/cuda_gemv.h"

namespace grinqh::cuda {

namespace {

constexpr int kMaxWarps = 16;
constexpr int kSteps = GemvOrder::kSteps;

// Shared memory, in this order: offsets and size.
struct Plan {
  int ring, x, groups, sums, begins, barriers, factor, bytes;
};
Plan plan_of(const GemvOrder& order, const StreamShape& shape, int col_chunks, int row_blocks, int tokens) {
  const int most = (row_blocks + shape.blocks - 1) / shape.blocks;
  Plan plan{};
  plan.x = plan.ring + shape.warps * shape.depth * order.chunk_bytes();
  plan.groups = plan.x + col_chunks * GemvOrder::kInputs * 2 * tokens;
  plan.sums = plan.groups + col_chunks * (GemvOrder::kInputs / order.group) * 8 * tokens;
  plan.barriers = plan.sums + (shape.warps + most) * GemvOrder::kOutputs * 4 * tokens;
  plan.begins = plan.barriers + shape.warps * shape.depth * 8;
  plan.factor = plan.begins + (shape.warps + 1) * 4;
  plan.bytes = plan.factor + 33 * 4;
  return plan;
}

struct Problem {
  GroupAffineStream w;
  int row_blocks, col_chunks, depth, tokens;
  int share_bits, groups;  // log2 of the threads that have a group together; groups of a token
  int chunk_bytes, code_bytes, block_bytes, blocks;
  Plan plan;
  GemvInput input;
  GemvOutput output;
};

__device__ inline uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

#if __CUDA_ARCH__ >= 900
__device__ inline void fetch(const uint8_t* from, uint32_t to, int bytes, uint32_t barrier) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
      "l"(from), "r"(bytes), "r"(barrier)
      : "memory");
}

__device__ inline void wait(uint32_t barrier, uint32_t phase) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again%=:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again%=;\n"
      "}\n" ::"r"(barrier),
      "r"(phase)
      : "memory");
}
#endif

__device__ inline void multiply(int (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The vectors of a lane for two steps: what 3 bits need together.
template <int kBits>
struct Codes {
  static constexpr int kVectors = kBits == 3 ? 3 : kBits;
  uint32_t words[kVectors][4];
  uint32_t split[kBits == 3 ? 4 : 1];

  __device__ void load(const uint8_t* chunk, int pair, int lane) {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const uint4 four = *reinterpret_cast<const uint4*>(chunk + ((pair * kVectors + v) * 32 + lane) * 16);
      words[v][0] = four.x;
      words[v][1] = four.y;
      words[v][2] = four.z;
      words[v][3] = four.w;
    }
    if constexpr (kBits == 3) {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        split[i] = (words[0][i] >> 6 & 0x03030303u) | (words[1][i] >> 4 & 0x0c0c0c0cu) |
                   (words[2][i] >> 2 & 0x30303030u);
    }
  }

  // Of step `odd` of the two, group q.
  __device__ void take(int odd, int q, uint32_t (&a)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (kBits == 3) {
        const uint32_t word = q < 2 ? words[odd][i] : odd == 0 ? words[2][i] : split[i];
        a[i] = word & (0x07070707u << q % 2 * 3);
      } else if constexpr (kBits == 8) {
        a[i] = words[odd * 4 + q][i];
      } else {
        constexpr int kShare = 8 / kBits;
        constexpr uint32_t kMask = kBits == 2 ? 0x03030303u : 0x0f0f0f0fu;
        a[i] = words[odd * (kBits / 2) + q / kShare][i] & (kMask << q % kShare * kBits);
      }
    }
  }

  // What the place of group q's codes multiplies them by, inverted.
  static __device__ float factor(int q) {
    constexpr int kShare = kBits == 3 ? 2 : 8 / kBits;
    return __int_as_float((127 - q % kShare * kBits) << 23);
  }
};

// Two float16 side by side, at a multiple of four bytes.
__device__ inline float2 halves_at(const uint8_t* at) {
  const uint32_t two = *reinterpret_cast<const uint32_t*>(at);
  return make_float2(float_of_half(static_cast<uint16_t>(two)),
                     float_of_half(static_cast<uint16_t>(two >> 16)));
}

// Zero points of outputs g and g + 8, entry 4 g + q of a block's.
template <int kBits>
__device__ float2 zeros_at(const uint8_t* zeros, GemvOrder::Zeros kind, int entry) {
  if (kind == GemvOrder::Zeros::halves) return halves_at(zeros + entry * 4);
  if (kind == GemvOrder::Zeros::none) return make_float2(1 << (kBits - 1), 1 << (kBits - 1));
  const int bit = entry * 2 * kBits;
  const uint32_t window = (zeros[bit / 8] | static_cast<uint32_t>(zeros[bit / 8 + 1]) << 8) >> bit % 8;
  constexpr uint32_t kMask = (1u << kBits) - 1;
  return make_float2(window & kMask, window >> kBits & kMask);
}

// Inputs as integers: x in the order of the products, of every group its scale and its sum.
template <int kTokens, class T>
__device__ void quantize_inputs(const Problem& p, int token, float* scratch, uint8_t* x, float2* groups) {
  const float factor = input_factor<T>(p.input, static_cast<int>(p.w.in), token, scratch);
  constexpr int kBatch = 4;  // loads under way before the first is used
  const int items = p.col_chunks * (GemvOrder::kInputs / 8), share = 1 << p.share_bits,
            in = static_cast<int>(p.w.in);
  for (int first = threadIdx.x; first < items; first += kBatch * blockDim.x) {
    float all[kBatch][8];
#pragma unroll
    for (int n = 0; n < kBatch; ++n) {
      const int item = first + n * blockDim.x;
      load_inputs<T>(p.input, in, token, item, factor, all[n]);
    }
#pragma unroll
    for (int n = 0; n < kBatch; ++n) {
      const int item = first + n * blockDim.x;
      if (item >= items) break;  // whole warps
      float(&v)[8] = all[n];
      float most = 0;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        if (p.w.column_scales != nullptr && item * 8 + i < in)
          v[i] *= float_of_half(p.w.column_scales[item * 8 + i]);
        most = fmaxf(most, fabsf(v[i]));
      }
      for (int other = 1; other < share; other *= 2)
        most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, other));
      // The high byte of 32512 + 128 is still 127.
      const float inverse = most > 0 ? __fdividef(32512.0f, most) : 0.0f;
      uint32_t high[2] = {}, low[2] = {};
      int sum = 0;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int rounded = max(-32512, min(32512, __float2int_rn(v[i] * inverse))), h = (rounded + 128) >> 8;
        sum += rounded;
        high[i / 4] |= (h & 0xffu) << i % 4 * 8;
        low[i / 4] |= (rounded & 0xffu) << i % 4 * 8;
      }
      for (int other = 1; other < share; other *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, other);

      const int group = item >> p.share_bits, q = group % 4, t = item % 4;
      const int step = (group / 4 << p.share_bits | (item & (share - 1))) / 4;
      const int column = kTokens == 1 ? q : token;
      uint8_t* to = x + ((kTokens == 1 ? step : step * 4 + q) * 32 + column * 8 + t) * 8;
      *reinterpret_cast<uint2*>(to) = make_uint2(high[0], high[1]);
      *reinterpret_cast<uint2*>(to + 32) = make_uint2(low[0], low[1]);
      if ((item & (share - 1)) == 0)
        groups[token * p.groups + group] = make_float2(most * (1.0f / 32512.0f), static_cast<float>(sum));
    }
  }
}

template <int kBits, int kTokens>
__global__ void __launch_bounds__(kMaxWarps * 32, 1) stream_chunks(const __grid_constant__ Problem p) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) uint8_t shared[];
  let_next_begin();
  const GemvOrder order = p.w.order;
  const int warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32, t = lane % 4;
  const int blocks = gridDim.x;
  // Rows are dealt out evenly: the first `more` blocks have one more.
  const int each = p.row_blocks / blocks, more = p.row_blocks - each * blocks, block = blockIdx.x;
  const int first_rows = each * block + min(block, more), rows = each + (block < more);
  const Plan& plan = p.plan;
  uint8_t* x = shared + plan.x;
  auto* groups = reinterpret_cast<float2*>(shared + plan.groups);
  auto* sums = reinterpret_cast<float*>(shared + plan.sums);
  auto* begins = reinterpret_cast<int*>(shared + plan.begins);
  const int chunk_bytes = p.chunk_bytes;

  // Chunks of this warp, counted from the block's first.
  const int chunks = rows * p.col_chunks;
  const int chunks_each = chunks / warps, chunks_more = chunks - chunks_each * warps;
  const auto begin_of = [&](int w) { return chunks_each * w + min(w, chunks_more); };
  const int begin = begin_of(warp), end = begin_of(warp + 1);
  const uint8_t* from = p.w.chunks + (int64_t{first_rows} * p.col_chunks + begin) * chunk_bytes;
  uint8_t* ring = shared + plan.ring + warp * p.depth * chunk_bytes;
  const uint32_t ring_at = shared_address(ring),
                 barriers = shared_address(shared + plan.barriers + warp * p.depth * 8);
  if (lane == 0) {
    for (int slot = 0; slot < p.depth; ++slot)
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(barriers + slot * 8) : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    for (int slot = 0; slot < p.depth && begin + slot < end; ++slot)
      fetch(from + int64_t{slot} * chunk_bytes, ring_at + slot * chunk_bytes, chunk_bytes,
            barriers + slot * 8);
  }
  if constexpr (kTokens > 1) {
    // Columns of tokens that are not there.
    for (int at = threadIdx.x; at < (plan.sums - plan.x) / 16; at += blockDim.x)
      reinterpret_cast<uint4*>(x)[at] = make_uint4(0, 0, 0, 0);
    __syncthreads();
  }
  if (threadIdx.x <= warps) begins[threadIdx.x] = begin_of(threadIdx.x);
  wait_for_inputs();
  for (int token = 0; token < p.tokens; ++token) {
    auto* scratch = reinterpret_cast<float*>(shared + plan.factor);
    if (p.input.x.type == Type::bf16)
      quantize_inputs<kTokens, __nv_bfloat16>(p, token, scratch, x, groups);
    else
      quantize_inputs<kTokens, float>(p, token, scratch, x, groups);
  }
  __syncthreads();

  constexpr int kParts = kTokens == 1 ? 2 : 4;  // accumulators: two chains, or one a group
  const int steps = 1 << (p.share_bits - 2);
  const uint32_t mine = lane / 8;  // the group whose columns this lane's B has, with one token
  int slot = 0;
  uint32_t phase = 0;
  float y0 = 0, y1 = 0;
  int acc[kParts][4] = {};
  int row = begin / p.col_chunks, col = begin - row * p.col_chunks;
  float2 row_zeros = make_float2(0, 0);
  for (int chunk = begin; chunk < end; ++chunk) {
    if (order.per_channel && (chunk == begin || col == 0)) {
      row_zeros = p.w.row_zeros == nullptr
                      ? make_float2(1 << (kBits - 1), 1 << (kBits - 1))
                      : halves_at(reinterpret_cast<const uint8_t*>(
                            p.w.row_zeros + (int64_t{first_rows} + row) * 16 + lane / 4 * 2));
    }
    const uint8_t* data = ring + slot * chunk_bytes;
    wait(barriers + slot * 8, phase);
#pragma unroll
    for (int pair = 0; pair < kSteps / 2; ++pair) {
      Codes<kBits> codes;
      codes.load(data, pair, lane);
#pragma unroll
      for (int odd = 0; odd < 2; ++odd) {
        const int step = pair * 2 + odd;
        const uint8_t* b_at = x + ((col * kSteps + step) * (kTokens == 1 ? 1 : 4) * 32 + lane) * 8;
        uint2 b = *reinterpret_cast<const uint2*>(b_at);
#pragma unroll
        for (int q = 0; q < 4; ++q) {
          uint32_t a[4];
          codes.take(odd, q, a);
          if constexpr (kTokens == 1) {
            const bool here = mine == static_cast<uint32_t>(q);
            multiply(acc[q % 2], a, here ? b.x : 0u, here ? b.y : 0u);
          } else {
            if (q > 0) b = *reinterpret_cast<const uint2*>(b_at + q * 256);
            multiply(acc[q], a, b.x, b.y);
          }
        }
        if (((step + 1) & (steps - 1)) != 0) continue;
        const int four = step >> (p.share_bits - 2);  // groups
        const uint8_t* scales = data + p.code_bytes + four * p.block_bytes;
        const float2* of_groups = groups + (col * p.blocks + four) * 4;
        if constexpr (kTokens == 1) {
          const float2 s = order.per_channel ? make_float2(1, 1) : halves_at(scales + lane * 4);
          const float2 z = order.per_channel ? row_zeros : zeros_at<kBits>(scales + 128, order.zeros, lane);
          const float2 of_x = of_groups[t];
          const float factor = Codes<kBits>::factor(t);
          const int high0 = acc[0][0] + acc[1][0], low0 = acc[0][1] + acc[1][1];
          const int high1 = acc[0][2] + acc[1][2], low1 = acc[0][3] + acc[1][3];
          y0 += s.x * of_x.x * (static_cast<float>(high0 * 256 + low0) * factor - z.x * of_x.y);
          y1 += s.y * of_x.x * (static_cast<float>(high1 * 256 + low1) * factor - z.y * of_x.y);
        } else {
#pragma unroll
          for (int q = 0; q < 4; ++q) {
            const int entry = lane / 4 * 4 + q;
            const float2 s = order.per_channel ? make_float2(1, 1) : halves_at(scales + entry * 4);
            const float2 z =
                order.per_channel ? row_zeros : zeros_at<kBits>(scales + 128, order.zeros, entry);
            const float2 of_x = of_groups[t * p.groups + q];
            const float factor = Codes<kBits>::factor(q);
            y0 += s.x * of_x.x * (static_cast<float>(acc[q][0] * 256 + acc[q][1]) * factor - z.x * of_x.y);
            y1 += s.y * of_x.x * (static_cast<float>(acc[q][2] * 256 + acc[q][3]) * factor - z.y * of_x.y);
          }
        }
#pragma unroll
        for (int part = 0; part < kParts; ++part)
#pragma unroll
          for (int i = 0; i < 4; ++i) acc[part][i] = 0;
      }
    }
    __syncwarp();
    if (lane == 0 && chunk + p.depth < end)
      fetch(from + int64_t{chunk - begin + p.depth} * chunk_bytes, ring_at + slot * chunk_bytes, chunk_bytes,
            barriers + slot * 8);
    if (++slot == p.depth) {
      slot = 0;
      phase ^= 1;
    }
    if (++col < p.col_chunks && chunk + 1 < end) continue;
    // This warp's share of 16 outputs is done. No other warp and row block have the same sum of numbers.
    if constexpr (kTokens == 1) {
      for (int other = 1; other < 4; other *= 2) {
        y0 += __shfl_xor_sync(0xffffffffu, y0, other);
        y1 += __shfl_xor_sync(0xffffffffu, y1, other);
      }
    }
    if (kTokens > 1 || t == 0) {
      float* to = sums + ((warp + row) * kTokens + (kTokens == 1 ? 0 : t)) * GemvOrder::kOutputs + lane / 4;
      to[0] = y0;
      to[8] = y1;
    }
    y0 = y1 = 0;
    if (col == p.col_chunks) {
      col = 0;
      ++row;
    }
  }
  __syncthreads();

  // In the order of warps, whoever came first.
  for (int at = threadIdx.x; at < rows * kTokens * GemvOrder::kOutputs; at += blockDim.x) {
    const int r = at / (kTokens * GemvOrder::kOutputs), token = at / GemvOrder::kOutputs % kTokens;
    const int output = at % GemvOrder::kOutputs;
    const int64_t n = (int64_t{first_rows} + r) * GemvOrder::kOutputs + output;
    if (token >= p.tokens || n >= p.w.out) continue;
    float sum = 0;
    for (int w = 0; w < warps; ++w) {
      const int from_chunk = max(begins[w], r * p.col_chunks);
      const int to_chunk = min(begins[w + 1], (r + 1) * p.col_chunks);
      if (from_chunk < to_chunk) sum += sums[((w + r) * kTokens + token) * GemvOrder::kOutputs + output];
    }
    if (order.per_channel)
      sum *= float_of_half(p.w.row_scales[(int64_t{first_rows} + r) * 16 + output % 8 * 2 + output / 8]);
    put_output(p.output, token, n, sum);
  }
#else
  __trap();
#endif
}

using Kernel = void (*)(Problem);

template <int kTokens>
Kernel kernel_of(int bits) {
  return bits == 2   ? stream_chunks<2, kTokens>
         : bits == 3 ? stream_chunks<3, kTokens>
         : bits == 4 ? stream_chunks<4, kTokens>
                     : stream_chunks<8, kTokens>;
}

constexpr int64_t kMostShared = 227 * 1024;

}  // namespace

StreamShape stream_shape(const GroupAffineStream& w, int tokens, int multiprocessors) {
  StreamShape shape;
  const int64_t row_blocks = w.row_blocks();
  shape.blocks = static_cast<int>(row_blocks < multiprocessors ? row_blocks : multiprocessors);
  // Measured on an H100: warps are worth more than copies in flight for each of them, and where a warp has
  // little more than one chunk, room for the next launch's block is worth more than both.
  const int64_t most = (row_blocks + shape.blocks - 1) / shape.blocks;
  for (const int warps : {kMaxWarps, 12, 8, 4}) {
    shape.warps = warps;
    const bool short_runs = most * w.col_chunks() * 2 <= 3 * warps;
    if (w.order.bits == 8 && warps == kMaxWarps && !short_runs) continue;
    for (shape.depth = short_runs ? 1 : 2; shape.depth >= 1; --shape.depth) {
      shape.shared_bytes =
          plan_of(w.order, shape, static_cast<int>(w.col_chunks()), static_cast<int>(row_blocks), tokens)
              .bytes;
      if (shape.shared_bytes <= kMostShared) return shape;
    }
  }
  shape.depth = 0;
  return shape;
}

void group_affine_gemv(const GroupAffineStream& w, const StreamShape& shape, const GemvInput& input,
                       const GemvOutput& output, Stream stream) {
  const int64_t tokens = input.x.rows;
  Problem p{};
  p.w = w;
  p.row_blocks = static_cast<int>(w.row_blocks());
  p.col_chunks = static_cast<int>(w.col_chunks());
  p.depth = shape.depth;
  p.share_bits = w.order.group == 32 ? 2 : w.order.group == 64 ? 3 : 4;
  p.groups = p.col_chunks * (GemvOrder::kInputs / w.order.group);
  p.chunk_bytes = w.order.chunk_bytes();
  p.code_bytes = w.order.code_bytes();
  p.block_bytes = w.order.block_bytes();
  p.blocks = w.order.blocks();
  p.plan = plan_of(w.order, shape, p.col_chunks, p.row_blocks, tokens == 1 ? 1 : 4);
  p.tokens = static_cast<int>(tokens);
  p.input = input;
  p.output = output;
  const Kernel kernel = tokens == 1 ? kernel_of<1>(w.order.bits) : kernel_of<4>(w.order.bits);
  check_call(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(shape.shared_bytes)),
             "cudaFuncSetAttribute");
  // Without it the multiprocessor keeps no more shared memory than one block needs.
  check_call(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                  cudaSharedmemCarveoutMaxShared),
             "cudaFuncSetAttribute");
  launch_early("group_affine gemv", kernel,
               {dim3(static_cast<unsigned>(shape.blocks)), dim3(static_cast<unsigned>(shape.warps) * 32),
                static_cast<size_t>(shape.shared_bytes)},
               stream, p);
}

void group_affine_gemv(const GroupAffineStream& w, const GemvInput& input, const GemvOutput& output,
                       int multiprocessors, Stream stream) {
  const ConstView& x = input.x;
  for (int64_t first = 0; first < x.rows; first += 4) {
    GemvInput some = input;
    some.x.rows = x.rows - first < 4 ? x.rows - first : 4;
    some.x.data = static_cast<const char*>(x.data) + first * x.stride * size_of(x.type);
    GemvOutput there = output;
    there.y = output.y.rows_between(first, first + some.x.rows);
    group_affine_gemv(w, stream_shape(w, some.x.rows == 1 ? 1 : 4, multiprocessors), some, there, stream);
  }
}

}  // namespace grinqh::cuda
