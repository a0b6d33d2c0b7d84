// A stable sort of a row of floats by one block: four rounds over the bytes of their keys, least byte first
// (Knuth, volume 3, 5.2.5).
#pragma once

#include <cstdint>

namespace grinqh::cuda {

inline constexpr int kSortThreads = 256;  // of the block: one a value of a byte

struct SortScratch {
  uint32_t next[256];                       // where the next key of each digit goes
  uint32_t counts[kSortThreads / 32][256];  // of a tile, by warp; then where each warp's keys go
};

// Floats in the order of their values as unsigned integers; -0 is +0.
__device__ inline uint32_t sort_key(float value) {
  const uint32_t bits = __float_as_uint(value + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ inline float value_of_key(uint32_t key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

// Pairs of a key and where its value stood.
struct SortedPairs {
  uint32_t *keys, *places;
};

// next[d] = number of keys with a digit below d.
__device__ inline void count_digits(const uint32_t* keys, int n, int shift, SortScratch& scratch) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  scratch.next[thread] = 0;
  __syncthreads();
  for (int i = thread; i < n; i += kSortThreads) atomicAdd(&scratch.next[keys[i] >> shift & 255], 1u);
  __syncthreads();
  const uint32_t own = scratch.next[thread];
  uint32_t sum = own;
  for (int step = 1; step < 32; step *= 2) {
    const uint32_t left = __shfl_up_sync(~0u, sum, step);
    if (lane >= step) sum += left;
  }
  if (lane == 31) scratch.counts[0][warp] = sum;
  __syncthreads();
  for (int w = 0; w < warp; ++w) sum += scratch.counts[0][w];
  scratch.next[thread] = sum - own;
  __syncthreads();
}

// One round: keys of equal digits keep their order.
__device__ inline void sort_by_digit(const SortedPairs& from, const SortedPairs& to, int n, int shift,
                                     SortScratch& scratch) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  count_digits(from.keys, n, shift, scratch);
  for (int begin = 0; begin < n; begin += kSortThreads) {
    for (auto& counts : scratch.counts) counts[thread] = 0;
    __syncthreads();
    const int i = begin + thread;
    const uint32_t key = i < n ? from.keys[i] : 0, digit = i < n ? key >> shift & 255 : 256;
    const uint32_t alike = __match_any_sync(~0u, digit);
    const auto rank = static_cast<uint32_t>(__popc(alike & ((1u << lane) - 1)));
    if (i < n && rank == 0) scratch.counts[warp][digit] = static_cast<uint32_t>(__popc(alike));
    __syncthreads();
    uint32_t next = scratch.next[thread];
    for (auto& counts : scratch.counts) {
      const uint32_t count = counts[thread];
      counts[thread] = next;
      next += count;
    }
    scratch.next[thread] = next;
    __syncthreads();
    if (i < n) {
      const uint32_t place = scratch.counts[warp][digit] + rank;
      to.keys[place] = key;
      to.places[place] = from.places[i];
    }
    __syncthreads();
  }
}

// `pairs` holds the row; `other` is as large. The result is in `pairs`.
__device__ inline void sort_row(const SortedPairs& pairs, const SortedPairs& other, int n,
                                SortScratch& scratch) {
  sort_by_digit(pairs, other, n, 0, scratch);
  sort_by_digit(other, pairs, n, 8, scratch);
  sort_by_digit(pairs, other, n, 16, scratch);
  sort_by_digit(other, pairs, n, 24, scratch);
}

}  // namespace grinqh::cuda
