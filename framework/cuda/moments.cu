#include "cuda/moments.h"

#include <algorithm>

#include "cuda/memory.h"
#include "cuda/typed_elements.cuh"

namespace grinqh::cuda {

namespace {

constexpr int kLaneChannels = 8;
constexpr int kTileChannels = 32 * kLaneChannels;  // those of a warp: lane l has 8 l .. 8 l + 7

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

__device__ int histogram_bin(float x) {
  constexpr int kBase = (127 - 20) * 4;  // 2^-20, four bins an octave
  const int bin = static_cast<int>((__float_as_uint(x) & 0x7fffffffu) >> 21) - kBase;
  return min(max(bin, 0), kHistogramBins - 1);
}

// body(x) for the 8 elements at `column` in the rows first, first + step, ... below end, in this order;
// kBatch loads are under way at a time. `valid` of the elements exist, others are given as zeros.
template <int kBatch, class T, class Body>
__device__ void for_rows(const T* column, int64_t stride, int64_t first, int64_t end, int64_t step, int valid,
                         const Body& body) {
  float x[8];
  int64_t r = first;
  if (valid >= 8)
    for (; r + (kBatch - 1) * step < end; r += kBatch * step) {
      Packed8<T> batch[kBatch];
#pragma unroll
      for (int k = 0; k < kBatch; ++k) batch[k] = load8(column + (r + k * step) * stride);
#pragma unroll
      for (int k = 0; k < kBatch; ++k) {
        batch[k].unpack(x);
        body(x);
      }
    }
  for (; r < end; r += step) {
    load8_part(column + r * stride, valid, x);
    body(x);
  }
}

constexpr int kHistogramThreads = 512;
// Counters of 16 bits, two in a word: a block sees fewer than 2^16 tokens.
constexpr int kHistogramWords = kTileChannels / 2 * kHistogramBins;
constexpr int64_t kHistogramTokens = 65535;

// A block counts a slice of the tokens for a tile of channels. The word of channel 8 l + j is in bank l, so
// that a warp, whose lanes count different channels, never meets itself in a bank; channels j and j + 4 share
// words. Counts are integers: they do not depend on the order.
template <class T>
__global__ void __launch_bounds__(kHistogramThreads)
    histogram_kernel(const T* x, int64_t rows, int64_t cols, int64_t stride, int64_t slice,
                     uint32_t* counts) {
  extern __shared__ uint4 histogram_storage[];
  auto* words = reinterpret_cast<uint32_t*>(histogram_storage);
  for (int i = threadIdx.x; i < kHistogramWords / 4; i += kHistogramThreads)
    histogram_storage[i] = make_uint4(0, 0, 0, 0);
  __syncthreads();

  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t tile = static_cast<int64_t>(blockIdx.x) * kTileChannels;
  const int64_t channel = tile + lane * kLaneChannels;
  const int64_t begin = blockIdx.y * slice, end = min(begin + slice, rows);
  if (channel < cols)
    for_rows<4>(x + channel, stride, begin + warp, end, kHistogramThreads / 32,
                static_cast<int>(min(cols - channel, int64_t{8})), [&](const float(&values)[8]) {
#pragma unroll
                  for (int j = 0; j < 8; ++j)
                    atomicAdd(words + histogram_bin(values[j]) * 128 + j % 4 * 32 + lane,
                              j < 4 ? 1u : 0x10000u);
                });
  __syncthreads();

  // A warp takes 8 bins of 4 words: whole sectors of `counts`, and at most 8 words of a bank.
  for (int i = threadIdx.x; i < kHistogramWords; i += kHistogramThreads) {
    const int bin = i / 32 % 16 * 8 + i % 8, position = i / 512 * 4 + i % 32 / 8;
    const uint32_t word = words[bin * 128 + position];
    const int64_t low = tile + position % 32 * kLaneChannels + position / 32, high = low + 4;
    if (low < cols && (word & 0xffffu)) atomicAdd(counts + low * kHistogramBins + bin, word & 0xffffu);
    if (high < cols && word >> 16) atomicAdd(counts + high * kHistogramBins + bin, word >> 16);
  }
}

// A thread owns a channel and takes its tokens in their order, as the CPU does: the same sums to the last
// bit.
template <class T>
__global__ void __launch_bounds__(32)
    signed_histogram_kernel(const T* x, int64_t rows, int64_t cols, int64_t stride, double* sums) {
  __shared__ double bins[kHistogramBins][32];
  const int lane = threadIdx.x;
  const int64_t tile = static_cast<int64_t>(blockIdx.x) * 32;
  const int channels = static_cast<int>(min(cols - tile, int64_t{32}));
  for (int i = 0; i < channels; ++i)
    for (int bin = lane; bin < kHistogramBins; bin += 32)
      bins[bin][i] = sums[(tile + i) * kHistogramBins + bin];
  __syncwarp();
  if (lane < channels) {
    constexpr int kBatch = 32;
    const T* column = x + tile + lane;
    const auto add = [&](T value) { bins[histogram_bin(to_float(value))][lane] += to_float(value); };
    const auto load = [&](int64_t from, T(&batch)[kBatch]) {
      if (from + kBatch > rows) return;
#pragma unroll
      for (int k = 0; k < kBatch; ++k) batch[k] = column[(from + k) * stride];
    };
    T now[kBatch], next[kBatch];  // a batch is on its way while another is added
    int64_t t = 0;
    load(t, now);
    for (; t + kBatch <= rows; t += kBatch) {
      load(t + kBatch, next);
#pragma unroll
      for (int k = 0; k < kBatch; ++k) {
        add(now[k]);
        now[k] = next[k];
      }
    }
    for (; t < rows; ++t) add(column[t * stride]);
  }
  __syncwarp();
  for (int i = 0; i < channels; ++i)
    for (int bin = lane; bin < kHistogramBins; bin += 32)
      sums[(tile + i) * kHistogramBins + bin] = bins[bin][i];
}

constexpr int kSumWarps = 8;
// By the shape alone, so that sums are the same on every GPU.
constexpr int64_t kSumTokens = 256;

struct Magnitude {
  static __device__ double of(float x) { return fabsf(x); }
};
struct Square {
  static __device__ double of(float x) { return static_cast<double>(x) * static_cast<double>(x); }
};

// partial(slice, i) = the sum of Term over the slice's tokens; largest[i] by atomics on the bits, whose order
// as integers is that of floats that are not negative. Either may be null.
template <class T, class Term>
__global__ void __launch_bounds__(32 * kSumWarps)
    channel_sums_kernel(const T* x, int64_t rows, int64_t cols, int64_t stride, double* partial,
                        float* largest) {
  __shared__ double sums[kSumWarps][kTileChannels];
  __shared__ float maxima[kSumWarps][kTileChannels];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t tile = static_cast<int64_t>(blockIdx.x) * kTileChannels;
  const int64_t channel = tile + lane * kLaneChannels;
  const int64_t begin = blockIdx.y * kSumTokens, end = min(begin + kSumTokens, rows);
  double sum[8] = {};
  float maximum[8] = {};
  if (channel < cols)
    for_rows<16 / sizeof(T)>(x + channel, stride, begin + warp, end, kSumWarps,
                             static_cast<int>(min(cols - channel, int64_t{8})), [&](const float(&values)[8]) {
#pragma unroll
                               for (int j = 0; j < 8; ++j) {
                                 sum[j] += Term::of(values[j]);
                                 maximum[j] = fmaxf(maximum[j], fabsf(values[j]));
                               }
                             });
  for (int j = 0; j < 8; ++j) {
    sums[warp][j * 32 + lane] = sum[j];
    maxima[warp][j * 32 + lane] = maximum[j];
  }
  __syncthreads();
  const int mine = threadIdx.x;
  const int place = mine % kLaneChannels * 32 + mine / kLaneChannels;
  if (tile + mine >= cols) return;
  double total = 0;
  float top = 0;
  for (int w = 0; w < kSumWarps; ++w) {
    total += sums[w][place];
    top = fmaxf(top, maxima[w][place]);
  }
  if (partial) partial[blockIdx.y * cols + tile + mine] = total;
  if (largest) atomicMax(reinterpret_cast<int*>(largest + tile + mine), __float_as_int(top));
}

__global__ void add_partials_kernel(const double* partial, int64_t slices, int64_t cols, double* sums) {
  const int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (i >= cols) return;
  double sum = 0;
#pragma unroll 8
  for (int64_t s = 0; s < slices; ++s) sum += partial[s * cols + i];
  sums[i] += sum;
}

template <class Term>
void add_channel_sums(ConstView x, double* sums, float* largest, Stream stream) {
  if (x.rows == 0 || x.cols == 0 || (!sums && !largest)) return;
  static_assert(kTileChannels == 32 * kSumWarps);  // a thread ends one channel
  const int64_t slices = ceil_div(x.rows, kSumTokens);
  const Bytes partial(sums ? slices * x.cols * static_cast<int64_t>(sizeof(double)) : 0, stream);
  const dim3 grid(static_cast<unsigned>(ceil_div(x.cols, kTileChannels)), static_cast<unsigned>(slices));
  with_type(x.type, [&](auto element) {
    using T = decltype(element);
    channel_sums_kernel<T, Term><<<grid, 32 * kSumWarps, 0, stream>>>(
        static_cast<const T*>(x.data), x.rows, x.cols, x.stride, partial.as<double>(), largest);
  });
  check_launch("channel_sums", stream);
  if (!sums) return;
  add_partials_kernel<<<static_cast<unsigned>(ceil_div(x.cols, 64)), 64, 0, stream>>>(partial.as<double>(),
                                                                                      slices, x.cols, sums);
  check_launch("add_partials", stream);
}

constexpr int kElementThreads = 256, kThreadElements = 4;

// body(i) for i < count, four a thread, neighbours in neighbouring threads.
template <class Body>
__global__ void __launch_bounds__(kElementThreads) elements_kernel(int64_t count, Body body) {
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kElementThreads * kThreadElements + threadIdx.x;
#pragma unroll
  for (int k = 0; k < kThreadElements; ++k)
    if (const int64_t i = first + k * kElementThreads; i < count) body(i);
}

template <class Body>
void for_elements(const char* name, int64_t count, Stream stream, const Body& body) {
  if (count == 0) return;
  const int64_t blocks = ceil_div(count, kElementThreads * kThreadElements);
  elements_kernel<<<static_cast<unsigned>(blocks), kElementThreads, 0, stream>>>(count, body);
  check_launch(name, stream);
}

struct AddToDouble {
  const float* part;
  double* sum;
  __device__ void operator()(int64_t i) const { sum[i] += part[i]; }
};
struct ScaleToFloat {
  const double* sum;
  double scale;
  float* out;
  __device__ void operator()(int64_t i) const { out[i] = static_cast<float>(sum[i] * scale); }
};
struct AddScaledSquare {
  const float* gradient;
  float scale;
  float* sum;
  __device__ void operator()(int64_t i) const {
    const float value = scale * gradient[i];
    sum[i] += value * value;
  }
};

// A tile of the upper triangle, and its transpose to the lower one.
__global__ void __launch_bounds__(256) mirror_kernel(const double* sum, double scale, int64_t n, float* out) {
  if (blockIdx.x < blockIdx.y) return;
  __shared__ float tile[32][33];
  const int64_t row = static_cast<int64_t>(blockIdx.y) * 32, col = static_cast<int64_t>(blockIdx.x) * 32;
  const int x = threadIdx.x;
  for (int y = threadIdx.y; y < 32; y += 8) {
    const int64_t i = row + y, j = col + x;
    if (i >= n || j >= n || j < i) continue;
    const auto value = static_cast<float>(sum[i * n + j] * scale);
    tile[y][x] = value;
    out[i * n + j] = value;
  }
  __syncthreads();
  for (int y = threadIdx.y; y < 32; y += 8) {
    const int64_t i = col + y, j = row + x;
    if (i < n && j < i) out[i * n + j] = tile[x][y];
  }
}

}  // namespace

void add_histogram(ConstView x, uint32_t* counts, Stream stream) {
  if (x.rows == 0 || x.cols == 0) return;
  constexpr int kBytes = kHistogramWords * static_cast<int>(sizeof(uint32_t));
  constexpr int64_t kBlocks = 800, kLeastTokens = 1024;  // enough to fill a GPU; few enough to write little
  const int64_t tiles = ceil_div(x.cols, kTileChannels);
  const int64_t slice = std::clamp(ceil_div(x.rows * tiles, kBlocks), kLeastTokens, kHistogramTokens);
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(ceil_div(x.rows, slice)));
  with_type(x.type, [&](auto element) {
    using T = decltype(element);
    check_call(cudaFuncSetAttribute(histogram_kernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
               "shared memory of histogram_kernel");
    histogram_kernel<T><<<grid, kHistogramThreads, kBytes, stream>>>(static_cast<const T*>(x.data), x.rows,
                                                                     x.cols, x.stride, slice, counts);
  });
  check_launch("histogram", stream);
}

void add_signed_histogram(ConstView x, double* sums, Stream stream) {
  if (x.rows == 0 || x.cols == 0) return;
  with_type(x.type, [&](auto element) {
    using T = decltype(element);
    signed_histogram_kernel<T><<<static_cast<unsigned>(ceil_div(x.cols, 32)), 32, 0, stream>>>(
        static_cast<const T*>(x.data), x.rows, x.cols, x.stride, sums);
  });
  check_launch("signed_histogram", stream);
}

void add_magnitudes(ConstView x, double* sums, float* largest, Stream stream) {
  add_channel_sums<Magnitude>(x, sums, largest, stream);
}

void add_squares(ConstView x, double* sums, Stream stream) {
  add_channel_sums<Square>(x, sums, nullptr, stream);
}

void add_to_double(const float* part, double* sum, int64_t count, Stream stream) {
  for_elements("add_to_double", count, stream, AddToDouble{part, sum});
}

void scale_to_float(const double* sum, double scale, int64_t n, bool symmetric, float* out, Stream stream) {
  if (!symmetric) {
    for_elements("scale_to_float", n * n, stream, ScaleToFloat{sum, scale, out});
    return;
  }
  if (n == 0) return;
  const auto tiles = static_cast<unsigned>(ceil_div(n, 32));
  mirror_kernel<<<dim3(tiles, tiles), dim3(32, 8), 0, stream>>>(sum, scale, n, out);
  check_launch("mirror", stream);
}

void add_scaled_squares(const float* gradient, float scale, float* sum, int64_t count, Stream stream) {
  for_elements("add_scaled_squares", count, stream, AddScaledSquare{gradient, scale, sum});
}

}  // namespace grinqh::cuda
