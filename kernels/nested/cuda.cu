#include "kernels/nested/cuda.h"

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

// The tile's part of the first planes, zeros beyond the matrix. plane_bytes: a multiple of Word's size.
template <class Word>
__device__ void stage(const NestedWeights& w, int planes, int64_t first_channel, int64_t first_byte,
                      int64_t plane_bytes, uint8_t* tile) {
  constexpr int kWords = kTileBytes / static_cast<int>(sizeof(Word));
  for (int i = static_cast<int>(threadIdx.x); i < planes * kTileChannels * kWords; i += kThreads) {
    const int at = i % kWords * static_cast<int>(sizeof(Word));
    const int channel = i / kWords % kTileChannels, plane = i / (kWords * kTileChannels);
    Word word{};
    if (first_channel + channel < w.in && first_byte + at < plane_bytes)
      word = *reinterpret_cast<const Word*>(
          w.planes + (plane * w.in + first_channel + channel) * plane_bytes + first_byte + at);
    *reinterpret_cast<Word*>(tile + plane * kStagedPlane + staged(channel, at)) = word;
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
      return shifted - (8388608.0f - 0.5f * static_cast<float>(1 << (8 - level)));
    }
  }
};

__device__ void fill_table(const NestedWeights& w, int level, float* table) {
  for (int prefix = static_cast<int>(threadIdx.x); prefix < 1 << level; prefix += kThreads)
    table[prefix] = level <= w.table_levels
                        ? float_of_half(w.table[(1 << level) - 2 + prefix])
                        : (static_cast<float>(prefix) + 0.5f) * static_cast<float>(1 << (8 - level));
}

// Scales and minima of a chunk of channels, kept while the rows' group lasts.
class Parameters {
 public:
  __device__ Parameters(const NestedWeights& w, int64_t row, int64_t channel)
      : w_(w), channel_(channel), count_(static_cast<int>(min(int64_t{kChunk}, w.in - channel))) {
    if (w.by_input) {
      group_ = static_cast<uint32_t>(channel) / static_cast<uint32_t>(w.group);
      one_group_ = channel + count_ <= (group_ + 1) * w.group;
      next_ = row;
    } else {
      group_ = static_cast<uint32_t>(row) / static_cast<uint32_t>(w.group);
      next_ = row;
    }
  }

  // To be called for consecutive rows.
  __device__ void move_to(int64_t row) {
    if (row != next_) return;
    if (w_.by_input) {
      load_row(row * w_.groups);
      next_ = row + 1;
    } else {
#pragma unroll
      for (int c = 0; c < kChunk; ++c)
        if (c < count_) load(c, (channel_ + c) * w_.groups + group_);
      next_ = ++group_ * w_.group;
    }
  }

  float scale[kChunk] = {}, minimum[kChunk] = {};

 private:
  __device__ void load(int c, int64_t parameter) {
    scale[c] = float_of_half(w_.scales[parameter]);
    minimum[c] = float_of_half(w_.minima[parameter]);
  }
  __device__ void load_row(int64_t first) {
    if (one_group_) {
      load(0, first + group_);
#pragma unroll
      for (int c = 1; c < kChunk; ++c) {
        scale[c] = scale[0];
        minimum[c] = minimum[0];
      }
    } else {
#pragma unroll
      for (int c = 0; c < kChunk; ++c)
        if (c < count_)
          load(c, first + static_cast<uint32_t>(channel_ + c) / static_cast<uint32_t>(w_.group));
    }
  }

  const NestedWeights& w_;
  int64_t channel_, group_, next_;
  int count_;
  bool one_group_ = false;
};

template <class T, int kPlanes, bool kDifference, bool kTables>
__global__ void __launch_bounds__(kThreads)
    decode_tiles(const __grid_constant__ NestedWeights w, int level, int minus, Rows<T> out) {
  __shared__ __align__(16) uint8_t tile[kPlanes * kStagedPlane];
  __shared__ float tables[2][kTables ? 256 : 1];
  const int64_t first_channel = int64_t{blockIdx.x} * kTileChannels;
  const int64_t first_row = int64_t{blockIdx.y} * kTileRows;
  const int64_t plane_bytes = (w.out + 7) / 8;
  if constexpr (kTables) {
    fill_table(w, level, tables[0]);
    if (kDifference) fill_table(w, minus, tables[1]);
  }
  if (plane_bytes % 16 == 0)
    stage<uint4>(w, level, first_channel, first_row / 8, plane_bytes, tile);
  else if (plane_bytes % 4 == 0)
    stage<uint32_t>(w, level, first_channel, first_row / 8, plane_bytes, tile);
  else
    stage<uint8_t>(w, level, first_channel, first_row / 8, plane_bytes, tile);
  __syncthreads();

  const int chunk = static_cast<int>(threadIdx.x) % kChunks, octet = static_cast<int>(threadIdx.x) / kChunks;
  const int64_t channel = first_channel + chunk * kChunk, row0 = first_row + octet * 8;
  if (channel >= w.in || row0 >= w.out) return;
  Codes codes[kChunk];
#pragma unroll
  for (int c = 0; c < kChunk; ++c) {
    const uint8_t* bytes = tile + staged(chunk * kChunk + c, octet);
    uint32_t halves[2] = {0, 0};
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane)
      if (plane < level)
        halves[plane / 4] |= static_cast<uint32_t>(bytes[plane * kStagedPlane]) << (24 - 8 * (plane % 4));
    codes[c] = transpose(halves[1], halves[0]);
  }

  const Positions<kTables> full{level, tables[0]}, less{minus, tables[1]};
  Parameters parameters(w, row0, channel);
#pragma unroll
  for (int r = 0; r < 8; ++r) {
    if (row0 + r >= w.out) return;
    parameters.move_to(row0 + r);
    float values[kChunk];
#pragma unroll
    for (int c = 0; c < kChunk; ++c) {
      // Products of two float16 values, or of one with 9 bits, are exact: a fused sum has the same bits.
      values[c] = parameters.minimum[c] + parameters.scale[c] * full(codes[c].word(r), r % 4);
      if (kDifference)
        values[c] -= parameters.minimum[c] + parameters.scale[c] * less(codes[c].word(r), r % 4);
    }
    store_chunk(out, row0 + r, channel, values);
  }
}

template <class T, int kPlanes>
void launch(const NestedWeights& w, int level, int minus, const Rows<T>& out, Stream stream) {
  const dim3 grid(static_cast<unsigned>((w.in + kTileChannels - 1) / kTileChannels),
                  static_cast<unsigned>((w.out + kTileRows - 1) / kTileRows));
  const bool tables = level <= w.table_levels || (minus > 0 && minus <= w.table_levels);
  const auto kernel =
      minus > 0 ? (tables ? decode_tiles<T, kPlanes, true, true> : decode_tiles<T, kPlanes, true, false>)
                : (tables ? decode_tiles<T, kPlanes, false, true> : decode_tiles<T, kPlanes, false, false>);
  kernel<<<grid, kThreads, 0, stream>>>(w, level, minus, out);
  check_launch("nested decode_tiles", stream);
}

}  // namespace

void dequantize_nested(const NestedWeights& weights, int level, int minus, View out, Stream stream) {
  with_rows(out, [&]<class T>(const Rows<T>& rows) {
    if (level <= 4)
      launch<T, 4>(weights, level, minus, rows, stream);
    else
      launch<T, 8>(weights, level, minus, rows, stream);
  });
}

}  // namespace grinqh::cuda
