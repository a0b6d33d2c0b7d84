#include "cuda/column_errors.h"

namespace grinqh::cuda {

namespace {

constexpr int kThreads = 256;      // neighbouring columns
constexpr int64_t kPartRows = 64;  // that one block adds up

int64_t parts_of(int64_t rows) { return (rows + kPartRows - 1) / kPartRows; }

// scratch: [parts, cols]
__global__ void __launch_bounds__(kThreads) partial_errors(const ColumnErrors m, double* scratch) {
  const int64_t col = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (col >= m.cols) return;
  const int64_t first = int64_t{blockIdx.y} * kPartRows, end = min(first + kPartRows, m.rows);
  double sum = 0;
  for (int64_t row = first; row < end; ++row) {
    const int64_t at = row * m.cols + col;
    const double difference = static_cast<double>(m.a[at]) - (m.b ? static_cast<double>(m.b[at]) : 0.0);
    sum += (m.counts ? static_cast<double>(m.counts[row]) : 1.0) * difference * difference;
  }
  scratch[blockIdx.y * m.cols + col] = sum;
}

__global__ void __launch_bounds__(kThreads)
    add_parts_kernel(const double* part, int64_t parts, int64_t cols, double* sums) {
  const int64_t col = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (col >= cols) return;
  double sum = 0;
#pragma unroll 8
  for (int64_t p = 0; p < parts; ++p) sum += part[p * cols + col];
  sums[col] = sum;
}

}  // namespace

int64_t column_error_scratch(int64_t rows, int64_t cols) { return parts_of(rows) * cols; }

void column_errors(const ColumnErrors& matrices, double* scratch, double* sums, Stream stream) {
  if (matrices.cols == 0) return;
  const auto across = static_cast<unsigned>((matrices.cols + kThreads - 1) / kThreads);
  const int64_t parts = parts_of(matrices.rows);
  if (parts > 0) {
    partial_errors<<<dim3(across, static_cast<unsigned>(parts)), kThreads, 0, stream>>>(matrices, scratch);
    check_launch("partial_errors", stream);
  }
  add_parts(scratch, parts, matrices.cols, sums, stream);
}

void add_parts(const double* part, int64_t parts, int64_t cols, double* sums, Stream stream) {
  if (cols == 0) return;
  const auto blocks = static_cast<unsigned>((cols + kThreads - 1) / kThreads);
  add_parts_kernel<<<blocks, kThreads, 0, stream>>>(part, parts, cols, sums);
  check_launch("add_parts", stream);
}

}  // namespace grinqh::cuda
