// A block has 256 outputs of a slice of the inputs, a warp of it a run of those inputs: it lists the channels
// that a token reads, with their values, and goes through the list, a lane adding up eight outputs. Warps are
// added up through shared memory, slices through device memory.
#include "cuda/channel_gemv.h"
#include "cuda/decode.cuh"
#include "cuda/gemv_operands.cuh"
#include "cuda/launch.cuh"

namespace grinqh::cuda {

namespace {

constexpr int kWarps = 8, kThreads = kWarps * 32, kOutputs = 256;
constexpr int kBlocksOfMultiprocessor = 3;
constexpr int kLeastSlice = kWarps * 8;  // a warp has at least eight channels

struct Problem {
  ChannelWeights w;
  ChannelReading reading;
  int tokens, slices, items;  // items: of eight channels
  GemvInput input;
  GemvOutput output;
  float* partials;
  int32_t* arrivals;
};

// Those of up to 256 channels, eight a lane, that a warp's tokens read.
constexpr int kCapacity = 32 * 8;
struct List {
  int* channels;  // [kCapacity]
  float* values;  // [kCapacity][tokens], 0 where a token does not read
  int count;
};

[[maybe_unused]] __device__ inline bool is_read(float x, float threshold) { return !(fabsf(x) <= threshold); }

// Items [begin, end) of the inputs, at most 32. For whole warps.
template <class T>
__device__ void list_channels(const Problem& p, int begin, int end, const float* factors, List& list) {
  const int lane = threadIdx.x % 32, in = static_cast<int>(p.w.in), item = begin + lane;
  const auto threshold = [&](int i) {
    if (p.reading.thresholds == nullptr) return -1.0f;
    return p.reading.thresholds[p.reading.shared ? 0 : item * 8 + i];
  };
  uint32_t read = 0, of_token[kMaxGemvTokens] = {};
  float x[8];
  if (item < end)
#pragma unroll
    for (int token = 0; token < kMaxGemvTokens; ++token) {
      if (token >= p.tokens) break;
      load_inputs<T>(p.input, in, token, item, factors[token], x);
#pragma unroll
      for (int i = 0; i < 8; ++i)
        if (item * 8 + i < in && is_read(x[i], threshold(i))) of_token[token] |= 1u << i;
      read |= of_token[token];
    }
  const int own = __popc(read);
  int first = own;
  for (int other = 1; other < 32; other *= 2) {
    const int before = __shfl_up_sync(0xffffffffu, first, other);
    if (lane >= other) first += before;
  }
  __syncwarp();  // the list before is no longer read
  list.count = __shfl_sync(0xffffffffu, first, 31);
  first -= own;
  if (read != 0)
#pragma unroll
    for (int token = 0; token < kMaxGemvTokens; ++token) {
      if (token >= p.tokens) break;
      // Once more, rather than kept for all tokens.
      load_inputs<T>(p.input, in, token, item, factors[token], x);
      int at = first;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        if ((read >> i & 1) == 0) continue;
        if (p.w.column_scales != nullptr) x[i] *= float_of_half(p.w.column_scales[item * 8 + i]);
        if (token == 0) list.channels[at] = item * 8 + i;
        list.values[at++ * p.tokens + token] = (of_token[token] >> i & 1) != 0 ? x[i] : 0.0f;
      }
    }
  __syncwarp();
}

// Eight neighbouring outputs of a channel, as they lie.
template <ChannelWeights::Element kElement>
struct Eight {
  static constexpr bool kCodes = kElement == ChannelWeights::Element::codes8;
  static constexpr int kWords = kCodes ? 2 : 4;
  uint32_t words[kWords];

  __device__ void load(const void* row, int64_t output) {
    if constexpr (kCodes) {
      asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];"
                   : "=r"(words[0]), "=r"(words[1])
                   : "l"(static_cast<const uint8_t*>(row) + output));
    } else {
      asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                   : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                   : "l"(static_cast<const uint16_t*>(row) + output));
    }
  }
  __device__ float value(int i) const {
    if constexpr (kCodes) {
      return __uint_as_float(__byte_perm(words[i / 4], 0x4b000000u, 0x7440 + i % 4)) - kShift;
    } else if constexpr (kElement == ChannelWeights::Element::f16) {
      return float_of_half(static_cast<uint16_t>(words[i / 2] >> i % 2 * 16));
    } else {
      return __uint_as_float(i % 2 == 0 ? words[i / 2] << 16 : words[i / 2] & 0xffff0000u);
    }
  }
};

// Entries [begin, end) of the list, added to acc.
template <ChannelWeights::Element kElement, int kTokens>
__device__ void add_channels(const Problem& p, const List& list, int begin, int end, int64_t output,
                             float (&acc)[kTokens][8], float (&input_sums)[kTokens]) {
  constexpr int kBatch = kTokens > 4 ? 4 : 8;  // loads under way before the first is used
  using Row = Eight<kElement>;
  const int64_t row_bytes = p.w.stride * (Row::kCodes ? 1 : 2);
  for (int first = begin; first < end; first += kBatch) {
    Row rows[kBatch];
#pragma unroll
    for (int n = 0; n < kBatch; ++n)  // beyond the end: the last again, of which nothing is taken
      rows[n].load(static_cast<const char*>(p.w.data) + list.channels[min(first + n, end - 1)] * row_bytes,
                   output);
#pragma unroll
    for (int n = 0; n < kBatch; ++n) {
      if (first + n >= end) break;
      float x[kTokens];
#pragma unroll
      for (int token = 0; token < kTokens; ++token) {
        x[token] = token < p.tokens ? list.values[(first + n) * p.tokens + token] : 0.0f;
        if constexpr (Row::kCodes) input_sums[token] += x[token];
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float w = rows[n].value(i);
#pragma unroll
        for (int token = 0; token < kTokens; ++token) acc[token][i] = fmaf(w, x[token], acc[token][i]);
      }
    }
  }
}

// The same of codes, with the scales and zero points of their groups.
template <int kTokens>
__device__ void add_groups(const Problem& p, const List& list, int64_t output, float (&y)[kTokens][8]) {
  for (int begin = 0; begin < list.count;) {
    const int64_t group = list.channels[begin] / p.w.group;
    int end = begin + 1;
    while (end < list.count && list.channels[end] < (group + 1) * p.w.group) ++end;
    float acc[kTokens][8] = {}, sums[kTokens] = {};
    add_channels<ChannelWeights::Element::codes8>(p, list, begin, end, output, acc, sums);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int64_t at = group * p.w.stride + output + i;
      const float scale = float_of_half(p.w.scales[at]);
      const float zero = p.w.zeros == nullptr ? 128.0f : float_of_half(p.w.zeros[at]);
#pragma unroll
      for (int token = 0; token < kTokens; ++token)
        y[token][i] += scale * (acc[token][i] - zero * sums[token]);
    }
    begin = end;
  }
}

template <ChannelWeights::Element kElement, int kTokens>
__global__ void __launch_bounds__(kThreads, kTokens > 2 ? 2 : kBlocksOfMultiprocessor)
    add_listed_channels(const __grid_constant__ Problem p) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(16) uint8_t shared[];
  __shared__ float factors[kMaxGemvTokens], scratch[33];
  __shared__ bool last;
  let_next_begin();
  bring_norm_weights(p.input, p.w.in);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int tile = blockIdx.x / p.slices, slice = blockIdx.x - tile * p.slices;
  const int parts = p.slices * kWarps, part = slice * kWarps + warp;
  // Items are dealt out evenly; 32 bits hold the products.
  const auto begin_of = [&](int n) { return static_cast<int>(static_cast<uint32_t>(p.items) * n / parts); };
  List list{reinterpret_cast<int*>(shared) + warp * kCapacity,
            reinterpret_cast<float*>(shared) + kWarps * kCapacity + warp * kCapacity * p.tokens, 0};
  wait_for_inputs();
  const bool bf16 = p.input.x.type == Type::bf16;
  for (int token = 0; token < p.tokens; ++token) {
    const float factor = bf16 ? input_factor<__nv_bfloat16>(p.input, static_cast<int>(p.w.in), token, scratch)
                              : input_factor<float>(p.input, static_cast<int>(p.w.in), token, scratch);
    if (threadIdx.x == 0) factors[token] = factor;
  }
  __syncthreads();
  // Outputs beyond the last are computed from its padding, and dropped.
  const int64_t output = int64_t{tile} * kOutputs + lane * 8;
  const bool inside = output < p.w.out;
  float y[kTokens][8] = {}, none[kTokens] = {};
  for (int begin = begin_of(part); begin < begin_of(part + 1); begin += 32) {
    const int end = min(begin + 32, begin_of(part + 1));
    if (bf16)
      list_channels<__nv_bfloat16>(p, begin, end, factors, list);
    else
      list_channels<float>(p, begin, end, factors, list);
    if (!inside) continue;
    if constexpr (kElement != ChannelWeights::Element::codes8)
      add_channels<kElement>(p, list, 0, list.count, output, y, none);
    else
      add_groups<kTokens>(p, list, output, y);
  }

  __syncthreads();                                // lists are no longer needed
  auto* sums = reinterpret_cast<float*>(shared);  // [warp][token][output]
#pragma unroll
  for (int token = 0; token < kTokens; ++token)
    if (token < p.tokens) {
      auto* to = reinterpret_cast<float4*>(sums + (warp * p.tokens + token) * kOutputs + lane * 8);
      to[0] = make_float4(y[token][0], y[token][1], y[token][2], y[token][3]);
      to[1] = make_float4(y[token][4], y[token][5], y[token][6], y[token][7]);
    }
  __syncthreads();
  const int count = p.tokens * kOutputs;
  float* partials = p.partials + int64_t{tile} * p.slices * count;
  for (int at = threadIdx.x; at < count; at += kThreads) {
    float sum = 0;
    for (int w = 0; w < kWarps; ++w) sum += sums[w * count + at];
    const int64_t n = int64_t{tile} * kOutputs + at % kOutputs;
    if (p.slices > 1)
      partials[slice * count + at] = sum;
    else if (n < p.w.out)
      put_output(p.output, at / kOutputs, n, sum);
  }
  if (p.slices == 1) return;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) last = atomicAdd(p.arrivals + tile, 1) == p.slices - 1;
  __syncthreads();
  if (!last) return;
  __threadfence();
  for (int at = threadIdx.x; at < count; at += kThreads) {
    float sum = 0;
    for (int s = 0; s < p.slices; ++s) sum += __ldcg(partials + s * count + at);
    const int64_t n = int64_t{tile} * kOutputs + at % kOutputs;
    if (n < p.w.out) put_output(p.output, at / kOutputs, n, sum);
  }
  if (threadIdx.x == 0) p.arrivals[tile] = 0;
#else
  __trap();
#endif
}

template <ChannelWeights::Element kElement>
auto kernel_of(int64_t tokens) {
  return tokens == 1   ? add_listed_channels<kElement, 1>
         : tokens == 2 ? add_listed_channels<kElement, 2>
         : tokens <= 4 ? add_listed_channels<kElement, 4>
                       : add_listed_channels<kElement, 8>;
}

}  // namespace

int64_t ChannelShape::partial_floats(int64_t tokens) const {
  return slices > 1 ? int64_t{tiles} * slices * tokens * kOutputs : 0;
}

// The fewest slices that keep nearly all places for blocks busy, or as many as keep most.
ChannelShape channel_shape(int64_t out, int64_t in, int multiprocessors) {
  constexpr int kMostSlices = 32;
  constexpr double kEnough = 0.95;
  ChannelShape best;
  best.tiles = static_cast<int>((out + kOutputs - 1) / kOutputs);
  const int places = multiprocessors * kBlocksOfMultiprocessor;
  double most = 0;
  for (int slices = 1; slices <= kMostSlices && most < kEnough; ++slices) {
    if (slices > 1 && in / slices < kLeastSlice) break;
    const int blocks = best.tiles * slices;
    const double busy = static_cast<double>(blocks) / ((blocks + places - 1) / places * places);
    if (busy > most) most = busy, best.slices = slices;
  }
  return best;
}

void channel_gemv(const ChannelWeights& w, const ChannelShape& shape, const ChannelReading& reading,
                  const GemvInput& input, const GemvOutput& output, float* partials, int32_t* arrivals,
                  Stream stream) {
  Problem p{};
  p.w = w;
  p.reading = reading;
  p.tokens = static_cast<int>(input.x.rows);
  p.slices = shape.slices;
  p.items = static_cast<int>((w.in + 7) / 8);
  p.input = input;
  p.output = output;
  p.partials = partials;
  p.arrivals = arrivals;
  const int list_bytes = kWarps * kCapacity * 4 * (1 + p.tokens);
  const int sum_bytes = kWarps * p.tokens * kOutputs * 4;
  const int bytes = list_bytes > sum_bytes ? list_bytes : sum_bytes;
  const auto kernel =
      w.element == ChannelWeights::Element::bf16  ? kernel_of<ChannelWeights::Element::bf16>(p.tokens)
      : w.element == ChannelWeights::Element::f16 ? kernel_of<ChannelWeights::Element::f16>(p.tokens)
                                                  : kernel_of<ChannelWeights::Element::codes8>(p.tokens);
  check_call(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
             "cudaFuncSetAttribute");
  check_call(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                  cudaSharedmemCarveoutMaxShared),
             "cudaFuncSetAttribute");
  launch_early(
      "channel gemv", kernel,
      {dim3(static_cast<unsigned>(shape.tiles * shape.slices)), dim3(kThreads), static_cast<size_t>(bytes)},
      stream, p);
}

}  // namespace grinqh::cuda
