#include "cuda/read_roof.h"

#include <algorithm>

#include "cuda/bulk_copy.cuh"
#include "cuda/device_properties.h"
#include "cuda/launch.cuh"
#include "cuda/shared_memory.cuh"

namespace grinqh::cuda {

namespace {

// Xor of what was read; a value that it practically never has keeps the loads alive.
constexpr uint32_t kNever = 0x9e3779b9u;

__device__ uint4 load_once(const uint4* from) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from));
  return v;
}

__device__ void keep(uint32_t folded, uint32_t* sink) {
  if (folded == kNever) *sink = folded;
}

// Tiles of blockDim.x * kLoads vectors, one after the other for a block; a warp's loads are neighbours.
template <int kLoads, bool kEarly>
__global__ void read_vectors(const uint4* data, int64_t count, uint32_t* sink) {
  if (kEarly) let_next_begin();
  const int64_t tile = int64_t{blockDim.x} * kLoads;
  uint32_t folded = 0;
  for (int64_t begin = blockIdx.x * tile; begin < count; begin += gridDim.x * tile) {
    const int64_t first = begin + threadIdx.x;
    uint4 v[kLoads];
    if (begin + tile <= count) {
#pragma unroll
      for (int i = 0; i < kLoads; ++i) v[i] = load_once(data + first + i * blockDim.x);
    } else {
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        const int64_t at = first + i * blockDim.x;
        v[i] = at < count ? load_once(data + at) : make_uint4(0, 0, 0, 0);
      }
    }
#pragma unroll
    for (int i = 0; i < kLoads; ++i) folded ^= v[i].x ^ v[i].y ^ v[i].z ^ v[i].w;
  }
  if (kEarly) wait_for_inputs();
  keep(folded, sink);
}

// Bulk copies into a ring in shared memory by one thread a block. Pieces go round among the blocks.
template <int kStages, bool kEarly>
__global__ void read_bulk(const uint4* data, int64_t count, int piece_bytes, uint32_t* sink) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) unsigned char ring[];
  __shared__ __align__(8) uint64_t barriers[kStages];
  if (kEarly) let_next_begin();
  if (threadIdx.x != 0) return;
  for (int s = 0; s < kStages; ++s) init_barrier(shared_address(barriers + s), 1);
  fence_barriers();
  const int64_t bytes = count * 16, pieces = (bytes + piece_bytes - 1) / piece_bytes;
  const auto fetch = [&](int64_t piece, int stage) {
    const int64_t begin = piece * piece_bytes;
    const auto size = static_cast<int>(min(int64_t{piece_bytes}, bytes - begin));
    const uint32_t barrier = shared_address(barriers + stage);
    expect_bytes(barrier, size);
    copy_bulk(reinterpret_cast<const unsigned char*>(data) + begin,
              shared_address(ring + stage * piece_bytes), size, barrier);
  };
  int64_t asked = blockIdx.x;
  for (int s = 0; s < kStages && asked < pieces; ++s, asked += gridDim.x) fetch(asked, s);
  int stage = 0;
  uint32_t parity = 0, folded = 0;
  for (int64_t piece = blockIdx.x; piece < pieces; piece += gridDim.x) {
    wait_barrier(shared_address(barriers + stage), parity);
    folded ^= *reinterpret_cast<const uint32_t*>(ring + stage * piece_bytes);
    if (asked < pieces) fetch(asked, stage);
    asked += gridDim.x;
    if (++stage == kStages) stage = 0, parity ^= 1;
  }
  if (kEarly) wait_for_inputs();
  keep(folded, sink);
#endif
}

__global__ void fill(uint4* data, int64_t count, uint32_t seed) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * blockDim.x) {
    uint32_t words[4];
    for (int j = 0; j < 4; ++j) {
      uint32_t z = static_cast<uint32_t>(i * 4 + j) * 0x9e3779b9u + seed;
      z = (z ^ z >> 16) * 0x85ebca6bu;
      z = (z ^ z >> 13) * 0xc2b2ae35u;
      words[j] = z ^ z >> 16;
    }
    data[i] = make_uint4(words[0], words[1], words[2], words[3]);
  }
}

// One way to read. blocks_each: of an SM, with tiles in turns; 0: a block for every tile.
struct Form {
  const char* name;
  int loads, threads, blocks_each;
};
constexpr Form kVectorForms[] = {
    {"4 x 16 B, 256 threads", 4, 256, 0},
    {"8 x 16 B, 128 threads", 8, 128, 0},
    {"8 x 16 B, 256 threads", 8, 256, 0},
    {"16 x 16 B, 128 threads", 16, 128, 0},
    {"4 x 16 B, 512 threads", 4, 512, 0},
    {"4 x 16 B, 256 threads, 8 blocks", 4, 256, 8},
    {"8 x 16 B, 256 threads, 4 blocks", 8, 256, 4},
    {"8 x 16 B, 512 threads, 2 blocks", 8, 512, 2},
    {"16 x 16 B, 512 threads, 1 block", 16, 512, 1},
    {"4 x 16 B, 1024 threads, 2 blocks", 4, 1024, 2},
};
constexpr int kStages = 12;
struct BulkForm {
  const char* name;
  int piece_bytes, blocks_each;
};
constexpr BulkForm kBulkForms[] = {{"bulk copies, 16 KiB, 1 block", 16 << 10, 1},
                                   {"bulk copies, 8 KiB, 2 blocks", 8 << 10, 2},
                                   {"bulk copies, 4 KiB, 4 blocks", 4 << 10, 4},
                                   {"bulk copies, 2 KiB, 8 blocks", 2 << 10, 8}};
constexpr int kVectors = static_cast<int>(std::size(kVectorForms)),
              kBulks = static_cast<int>(std::size(kBulkForms));

template <class... Parameters, class... Arguments>
void launch(bool early, void (*kernel)(Parameters...), const LaunchShape& shape, Stream stream,
            Arguments... arguments) {
  if (early) {
    launch_early("read_only", kernel, shape, stream, arguments...);
  } else {
    kernel<<<shape.grid, shape.block, shape.shared_bytes, stream>>>(static_cast<Parameters>(arguments)...);
    check_launch("read_only", stream);
  }
}

template <bool kEarly>
auto* vector_kernel(int loads) {
  return loads == 4   ? read_vectors<4, kEarly>
         : loads == 8 ? read_vectors<8, kEarly>
                      : read_vectors<16, kEarly>;
}

}  // namespace

std::vector<ReadKernel> read_kernels() {
  const int major = device_properties().major;
  std::vector<ReadKernel> kernels;
  for (const bool early : {false, true}) {
    if (early && major < 9) continue;
    for (int i = 0; i < kVectors; ++i) kernels.push_back({kVectorForms[i].name, early, i});
    for (int i = 0; i < kBulks && major >= 9; ++i)
      kernels.push_back({kBulkForms[i].name, early, kVectors + i});
  }
  return kernels;
}

void read_only(const ReadKernel& kernel, const void* data, int64_t bytes, void* sink, int multiprocessors,
               Stream stream) {
  const auto* vectors = static_cast<const uint4*>(data);
  auto* to = static_cast<uint32_t*>(sink);
  const int64_t count = bytes / 16;
  LaunchShape shape;
  if (kernel.index < kVectors) {
    const Form& form = kVectorForms[kernel.index];
    const int64_t tile = int64_t{form.threads} * form.loads,
                  tiles = std::max<int64_t>(1, (count + tile - 1) / tile);
    const int64_t most = form.blocks_each == 0 ? tiles : int64_t{form.blocks_each} * multiprocessors;
    shape.grid = dim3(static_cast<unsigned>(std::min(tiles, most)));
    shape.block = dim3(static_cast<unsigned>(form.threads));
    launch(kernel.early, kernel.early ? vector_kernel<true>(form.loads) : vector_kernel<false>(form.loads),
           shape, stream, vectors, count, to);
  } else {
    const BulkForm& form = kBulkForms[kernel.index - kVectors];
    auto* function = kernel.early ? read_bulk<kStages, true> : read_bulk<kStages, false>;
    shape.shared_bytes = static_cast<size_t>(kStages) * static_cast<size_t>(form.piece_bytes);
    check_call(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    kStages * kBulkForms[0].piece_bytes),
               "cudaFuncSetAttribute");
    const int64_t pieces = std::max<int64_t>(1, (bytes + form.piece_bytes - 1) / form.piece_bytes);
    shape.grid = dim3(static_cast<unsigned>(std::min(pieces, int64_t{form.blocks_each} * multiprocessors)));
    shape.block = dim3(32);
    launch(kernel.early, function, shape, stream, vectors, count, form.piece_bytes, to);
  }
}

void fill_random(void* data, int64_t bytes, uint32_t seed, Stream stream) {
  fill<<<4096, 256, 0, stream>>>(static_cast<uint4*>(data), bytes / 16, seed);
  check_launch("fill", stream);
}

}  // namespace grinqh::cuda
