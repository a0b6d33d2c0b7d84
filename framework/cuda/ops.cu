#include "cuda/ops.h"

#include "cuda/elements.cuh"

namespace grinqh::cuda {

namespace {

// out[t] = op(a[t], b[t]) in the rows with flags[t] != 0, or in all of them.
template <class Op>
__global__ void combine_kernel(ConstView a, ConstView b, View out, const uint8_t* flags, bool aligned) {
  const int64_t col = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * kChunk;
  const int64_t count = out.cols - col;
  if (count <= 0) return;
  const int64_t step = int64_t{gridDim.y} * blockDim.y;
  for (int64_t t = int64_t{blockIdx.y} * blockDim.y + threadIdx.y; t < out.rows; t += step) {
    if (flags && !flags[t]) continue;
    const Chunk left = load_chunk(row_of(a, t), a.type, col, count, aligned);
    const Chunk right = load_chunk(row_of(b, t), b.type, col, count, aligned);
    float x[kChunk], y[kChunk];
    to_floats(left, a.type, x);
    to_floats(right, b.type, y);
#pragma unroll
    for (int i = 0; i < kChunk; ++i) x[i] = Op()(x[i], y[i]);
    store_chunk(row_of(out, t), out.type, col, count, aligned, x);
  }
}

// to[to_rows[i]] = from[from_rows[i]]; no list: row i.
__global__ void copy_kernel(ConstView from, const int32_t* from_rows, View to, const int32_t* to_rows,
                            int64_t rows, bool aligned) {
  const int64_t col = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * kChunk;
  const int64_t count = to.cols - col;
  if (count <= 0) return;
  const int64_t step = int64_t{gridDim.y} * blockDim.y;
  for (int64_t t = int64_t{blockIdx.y} * blockDim.y + threadIdx.y; t < rows; t += step) {
    const int64_t source = from_rows ? from_rows[t] : t, target = to_rows ? to_rows[t] : t;
    const Chunk chunk = load_chunk(row_of(from, source), from.type, col, count, aligned);
    float x[kChunk];
    to_floats(chunk, from.type, x);
    store_chunk(row_of(to, target), to.type, col, count, aligned, x);
  }
}

struct Add {
  __device__ float operator()(float a, float b) const { return a + b; }
};
struct Subtract {
  __device__ float operator()(float a, float b) const { return a - b; }
};
struct SiluMultiply {
  __device__ float operator()(float gate, float up) const { return gate / (1.0f + expf(-gate)) * up; }
};

template <class Op>
void combine(const char* name, ConstView a, ConstView b, View out, const uint8_t* flags, Stream stream) {
  if (empty(out)) return;
  const bool aligned = aligned_rows(a) && aligned_rows(b) && aligned_rows(out);
  const Tiling tiling = chunk_tiling(out.rows, out.cols);
  combine_kernel<Op><<<tiling.grid, tiling.block, 0, stream>>>(a, b, out, flags, aligned);
  check_launch(name, stream);
}

void copy_between(const char* name, ConstView from, const int32_t* from_rows, View to, const int32_t* to_rows,
                  int64_t rows, Stream stream) {
  if (rows <= 0 || to.cols <= 0) return;
  const Tiling tiling = chunk_tiling(rows, to.cols);
  copy_kernel<<<tiling.grid, tiling.block, 0, stream>>>(from, from_rows, to, to_rows, rows,
                                                        aligned_rows(from) && aligned_rows(to));
  check_launch(name, stream);
}

// The same row for every token.
ConstView repeated(const float* row, const View& like) { return {row, like.rows, like.cols, 0, Type::f32}; }

constexpr int kDistanceThreads = 256;
constexpr int kDistanceBlocks = 4096;  // what callers hold as scratch

// Block b sums rows b, b + gridDim.x, ...
__global__ void squared_distance_kernel(ConstView a, ConstView b, double* sums, bool aligned) {
  double sum = 0;
  for (int64_t t = blockIdx.x; t < a.rows; t += gridDim.x)
    for (int64_t col = int64_t{threadIdx.x} * kChunk; col < a.cols; col += int64_t{blockDim.x} * kChunk) {
      const Chunk left = load_chunk(row_of(a, t), a.type, col, a.cols - col, aligned);
      const Chunk right = load_chunk(row_of(b, t), b.type, col, a.cols - col, aligned);
      float x[kChunk], y[kChunk], part = 0;
      to_floats(left, a.type, x);
      to_floats(right, b.type, y);
#pragma unroll
      for (int i = 0; i < kChunk; ++i) part = fmaf(x[i] - y[i], x[i] - y[i], part);
      sum += static_cast<double>(part);
    }
  sum = block_sum(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

__global__ void sum_kernel(const double* parts, int count, double* sum) {
  double mine = 0;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) mine += parts[i];
  mine = block_sum(mine);
  if (threadIdx.x == 0) *sum = mine;
}

__global__ void find_not_finite_kernel(ConstView x, int32_t* flag, bool aligned) {
  const int64_t col = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * kChunk;
  if (col >= x.cols) return;
  const int64_t step = int64_t{gridDim.y} * blockDim.y;
  bool found = false;
  for (int64_t t = int64_t{blockIdx.y} * blockDim.y + threadIdx.y; t < x.rows; t += step) {
    float v[kChunk];
    to_floats(load_chunk(row_of(x, t), x.type, col, x.cols - col, aligned), x.type, v);
#pragma unroll
    for (int i = 0; i < kChunk; ++i) found |= !isfinite(v[i]);
  }
  if (found) *flag = 1;  // whoever writes, writes the same
}

}  // namespace

void embed(const int32_t* tokens, ConstView embedding, View out, Stream stream) {
  copy_between("embed", embedding, tokens, out, nullptr, out.rows, stream);
}

void silu_multiply(ConstView gate, ConstView up, View out, Stream stream) {
  combine<SiluMultiply>("silu_multiply", gate, up, out, nullptr, stream);
}

void add_rows(View x, ConstView y, Stream stream) { combine<Add>("add_rows", x, y, x, nullptr, stream); }

void add_bias(View x, const float* bias, Stream stream) {
  combine<Add>("add_bias", x, repeated(bias, x), x, nullptr, stream);
}

void add_bias_where(View x, const float* bias, const uint8_t* flags, Stream stream) {
  combine<Add>("add_bias_where", x, repeated(bias, x), x, flags, stream);
}

void subtract(ConstView a, ConstView b, View out, Stream stream) {
  combine<Subtract>("subtract", a, b, out, nullptr, stream);
}

void copy(ConstView from, View to, Stream stream) {
  copy_between("copy", from, nullptr, to, nullptr, to.rows, stream);
}

void copy_rows(ConstView from, const int32_t* rows, View to, Stream stream) {
  copy_between("copy_rows", from, rows, to, nullptr, to.rows, stream);
}

void scatter_rows(ConstView from, const int32_t* rows, View to, Stream stream) {
  copy_between("scatter_rows", from, nullptr, to, rows, from.rows, stream);
}

void squared_distance(ConstView a, ConstView b, double* sum, double* scratch, Stream stream) {
  const int blocks = empty(a) ? 0 : static_cast<int>(std::min<int64_t>(a.rows, kDistanceBlocks));
  if (blocks > 0) {
    squared_distance_kernel<<<blocks, kDistanceThreads, 0, stream>>>(a, b, scratch,
                                                                     aligned_rows(a) && aligned_rows(b));
    check_launch("squared_distance", stream);
  }
  sum_kernel<<<1, kDistanceThreads, 0, stream>>>(scratch, blocks, sum);
  check_launch("squared_distance: sum", stream);
}

void find_not_finite(ConstView x, int32_t* flag, Stream stream) {
  if (empty(x)) return;
  const Tiling tiling = chunk_tiling(x.rows, x.cols);
  find_not_finite_kernel<<<tiling.grid, tiling.block, 0, stream>>>(x, flag, aligned_rows(x));
  check_launch("find_not_finite", stream);
}

}  // namespace grinqh::cuda
