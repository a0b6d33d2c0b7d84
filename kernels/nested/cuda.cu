#include "kernels/nested/cuda.h"

#include <cuda_pipeline_primitives.h>

#include "cuda/decode.cuh"

namespace grinqh::cuda {

namespace {

// A block decodes a tile. Planes lie channel-major and weights row-major, so a thread takes 8 x 8 weights: a
// byte of each of 8 channels' planes, turned into the codes of 8 rows.
constexpr int kTileChannels = 64, kTileRows = 256, kThreads = 256;
constexpr int kTileBytes = kTileRows / 8;  // of a channel's plane
constexpr int kChunks = kTileChannels / kChunk;

// The skew of 16 bytes a chunk puts equal channels of the chunks into different banks.
constexpr int kStagedChunk = kChunk * kTileBytes + 16;
constexpr int kStagedPlane = kChunks * kStagedChunk;

__device__ int staged(int channel, int byte) {
  return channel / kChunk * kStagedChunk + channel % kChunk * kTileBytes + byte;
}

// The tile's part of the first planes, zeros beyond the matrix; complete after wait_prior(0) and a barrier.
// kBytes: of one copy, a divisor of plane_bytes.
template <int kBytes>
__device__ void stage(const NestedWeights& w, int planes, int64_t first_channel, int64_t first_byte,
                      int64_t plane_bytes, uint8_t* tile) {
  constexpr int kCopies = kTileBytes / kBytes;  // of a channel
  for (int i = static_cast<int>(threadIdx.x); i < planes * kTileChannels * kCopies; i += kThreads) {
    const int at = i % kCopies * kBytes;
    const int channel = i / kCopies % kTileChannels, plane = i / (kCopies * kTileChannels);
    const bool inside = first_channel + channel < w.in && first_byte + at < plane_bytes;
    const uint8_t* from =
        inside ? w.planes + (plane * w.in + first_channel + channel) * plane_bytes + first_byte + at
               : w.planes;
    uint8_t* to = tile + plane * kStagedPlane + staged(channel, at);
    if constexpr (kBytes == 1)
      *to = inside ? *from : uint8_t{0};
    else
      __pipeline_memcpy_async(to, from, kBytes, inside ? 0 : kBytes);
  }
}

// Codes of one channel: byte r is row r's, its first plane highest.
struct Codes {
  uint32_t low, high;  // rows 0..3 and 4..7

  __device__ uint32_t word(int row) const { return row < 4 ? low : high; }
};

// From an octet of rows of each plane: high holds planes 0..3, the first highest, low planes 4..7. Three
// rounds of block swaps, as quant/bit_transpose.h.
__device__ Codes transpose(uint32_t low, uint32_t high) {
  const auto within = [](uint32_t x) {
    uint32_t t = (x ^ (x >> 7)) & 0x00aa00aau;
    x ^= t ^ (t << 7);
    t = (x ^ (x >> 14)) & 0x0000ccccu;
    return x ^ t ^ (t << 14);
  };
  low = within(low);
  high = within(high);
  return {(low & 0x0f0f0f0fu) | (high & 0x0f0f0f0fu) << 4, (low >> 4 & 0x0f0f0f0fu) | (high & 0xf0f0f0f0u)};
}

// Positions of a level's prefixes, in units of the 8-bit step.
template <bool kTables>
struct Positions {
  int level;
  const float* table;  // [2^level] in shared memory, if kTables

  // Of byte `byte` of four codes.
  __device__ float operator()(uint32_t codes, int byte) const {
    if constexpr (kTables) {
      return table[codes >> (8 * byte + 8 - level) & ((1u << level) - 1)];
    } else {
      const uint32_t prefixes = codes & (0x01010101u * (0xffu << (8 - level) & 0xffu));
      // 2^23 + prefix by its bits; the cell's middle is at most 64, so both steps are exact.
      const float shifted = __uint_as_float(__byte_perm(prefixes, 0x4b000000u, 0x7440u + byte));
      return shifted - (kShift - 0.5f * static_cast<float>(1 << (8 - level)));
    }
  }
};

__device__ float position_of(const NestedWeights& w, int level, int prefix) {
  return level <= w.table_levels ? float_of_half(w.table[(1 << level) - 2 + prefix])
                                 : (static_cast<float>(prefix) + 0.5f) * static_cast<float>(1 << (8 - level));
}

__device__ void fill_table(const NestedWeights& w, int level, float* table) {
  for (int prefix = static_cast<int>(threadIdx.x); prefix < 1 << level; prefix += kThreads)
    table[prefix] = position_of(w, level, prefix);
}

// Scales and minima of a tile, by groups along the axis: [group][row] along the inputs, [group][channel]
// along the outputs. Groups are a multiple of 8 and at least kSmallestGroup, or there is only one.
constexpr int kSmallestGroup = 32;

template <bool kByInput>
struct Parameters {
  static constexpr int kOwn = kByInput ? kTileRows : kTileChannels;
  static constexpr int kMost = (kByInput ? kTileChannels : kTileRows) / kSmallestGroup + 1;
  float scale[kMost * kOwn], minimum[kMost * kOwn];

  __device__ static uint32_t group_of(const NestedWeights& w, int64_t row, int64_t channel) {
    return static_cast<uint32_t>(kByInput ? channel : row) / static_cast<uint32_t>(w.group);
  }
  __device__ void load(const NestedWeights& w, int64_t first_row, int64_t first_channel) {
    const int64_t last_row = min(first_row + kTileRows, w.out) - 1;
    const int64_t last_channel = min(first_channel + kTileChannels, w.in) - 1;
    const uint32_t first = group_of(w, first_row, first_channel);
    const uint32_t groups = group_of(w, last_row, last_channel) - first + 1;
    const int64_t begin = kByInput ? first_row : first_channel;
    const auto count = static_cast<uint32_t>((kByInput ? last_row : last_channel) - begin + 1);
    for (uint32_t i = threadIdx.x; i < count * groups; i += kThreads) {
      const uint32_t own = i / groups, group = i % groups;
      const int64_t from = (begin + own) * w.groups + first + group;
      scale[group * kOwn + own] = float_of_half(w.scales[from]);
      minimum[group * kOwn + own] = float_of_half(w.minima[from]);
    }
  }
};

// Products of two float16 values, or of one with 9 bits, are exact: a fused sum has the bits of two steps.
__device__ float weight_at(float minimum, float scale, float position) { return minimum + scale * position; }

template <class T, int kPlanes, bool kDifference, bool kTables, bool kByInput>
__global__ void __launch_bounds__(kThreads)
    decode_tiles(const __grid_constant__ NestedWeights w, int level, int minus, Rows<T> out) {
  __shared__ __align__(16) uint8_t tile[kPlanes * kStagedPlane];
  __shared__ __align__(16) Parameters<kByInput> parameters;
  __shared__ float tables[2][kTables ? 256 : 1];
  const int64_t first_channel = int64_t{blockIdx.x} * kTileChannels;
  const int64_t first_row = int64_t{blockIdx.y} * kTileRows;
  const int64_t plane_bytes = (w.out + 7) / 8;
  if (plane_bytes % 16 == 0)
    stage<16>(w, level, first_channel, first_row / 8, plane_bytes, tile);
  else if (plane_bytes % 4 == 0)
    stage<4>(w, level, first_channel, first_row / 8, plane_bytes, tile);
  else
    stage<1>(w, level, first_channel, first_row / 8, plane_bytes, tile);
  __pipeline_commit();
  const int chunk = static_cast<int>(threadIdx.x) % kChunks, octet = static_cast<int>(threadIdx.x) / kChunks;
  const int64_t channel = first_channel + chunk * kChunk, row0 = first_row + octet * 8;
  parameters.load(w, first_row, first_channel);
  if constexpr (kTables) {
    fill_table(w, level, tables[0]);
    if (kDifference) fill_table(w, minus, tables[1]);
  }
  __pipeline_wait_prior(0);
  __syncthreads();
  if (channel >= w.in || row0 >= w.out) return;

  Codes codes[kChunk];
  const uint8_t* own = tile + staged(chunk * kChunk, octet);
#pragma unroll
  for (int c = 0; c < kChunk; ++c) {
    uint32_t halves[2] = {0, 0};
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane)
      if (plane < level)
        halves[plane / 4] |= static_cast<uint32_t>(own[plane * kStagedPlane + c * kTileBytes])
                             << (24 - 8 * (plane % 4));
    codes[c] = transpose(halves[1], halves[0]);
  }

  // Of 8 rows or 8 channels; what lies beyond the matrix is not used.
  float scale[8], minimum[8];
  const uint32_t group =
      parameters.group_of(w, row0, channel) - parameters.group_of(w, first_row, first_channel);
  const uint32_t place = group * parameters.kOwn + 8 * (kByInput ? octet : chunk);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    scale[i] = parameters.scale[place + i];
    minimum[i] = parameters.minimum[place + i];
  }
  const Positions<kTables> full{level, tables[0]}, less{minus, tables[1]};
#pragma unroll
  for (int r = 0; r < 8; ++r) {
    if (row0 + r >= w.out) return;
    float values[kChunk];
#pragma unroll
    for (int c = 0; c < kChunk; ++c) {
      const int at = kByInput ? r : c;
      values[c] = weight_at(minimum[at], scale[at], full(codes[c].word(r), r % 4));
      if (kDifference) values[c] -= weight_at(minimum[at], scale[at], less(codes[c].word(r), r % 4));
    }
    store_chunk(out, row0 + r, channel, values);
  }
}

__device__ float decode_one(const NestedWeights& w, int64_t row, int64_t channel, int level) {
  const int64_t plane_bytes = (w.out + 7) / 8;
  const int64_t parameter =
      w.by_input ? row * w.groups + channel / w.group : channel * w.groups + row / w.group;
  int prefix = 0;
  for (int plane = 0; plane < level; ++plane)
    prefix = prefix << 1 | (w.planes[(plane * w.in + channel) * plane_bytes + row / 8] >> (row % 8) & 1);
  return weight_at(float_of_half(w.minima[parameter]), float_of_half(w.scales[parameter]),
                   position_of(w, level, prefix));
}

// Groups of any size, a weight a thread.
template <class T>
__global__ void decode_each(const __grid_constant__ NestedWeights w, int level, int minus, Rows<T> out) {
  const int64_t row = blockIdx.x;
  for (int64_t channel = threadIdx.x; channel < w.in; channel += blockDim.x) {
    float value = decode_one(w, row, channel, level);
    if (minus > 0) value -= decode_one(w, row, channel, minus);
    store(out.data + row * out.stride + channel, value);
  }
}

template <class T, int kPlanes, bool kByInput>
void launch(const NestedWeights& w, int level, int minus, const Rows<T>& out, Stream stream) {
  const dim3 grid(static_cast<unsigned>((w.in + kTileChannels - 1) / kTileChannels),
                  static_cast<unsigned>((w.out + kTileRows - 1) / kTileRows));
  const bool tables = level <= w.table_levels || (minus > 0 && minus <= w.table_levels);
  const auto kernel = minus > 0 ? (tables ? decode_tiles<T, kPlanes, true, true, kByInput>
                                          : decode_tiles<T, kPlanes, true, false, kByInput>)
                                : (tables ? decode_tiles<T, kPlanes, false, true, kByInput>
                                          : decode_tiles<T, kPlanes, false, false, kByInput>);
  kernel<<<grid, kThreads, 0, stream>>>(w, level, minus, out);
  check_launch("nested decode_tiles", stream);
}

}  // namespace

void dequantize_nested(const NestedWeights& w, int level, int minus, View out, Stream stream) {
  with_rows(out, [&]<class T>(const Rows<T>& rows) {
    if (w.groups > 1 && (w.group % 8 != 0 || w.group < kSmallestGroup)) {
      decode_each<<<static_cast<unsigned>(w.out), kThreads, 0, stream>>>(w, level, minus, rows);
      return check_launch("nested decode_each", stream);
    }
    if (level <= 4)
      w.by_input ? launch<T, 4, true>(w, level, minus, rows, stream)
                 : launch<T, 4, false>(w, level, minus, rows, stream);
    else
      w.by_input ? launch<T, 8, true>(w, level, minus, rows, stream)
                 : launch<T, 8, false>(w, level, minus, rows, stream);
  });
}

}  // namespace grinqh::cuda
