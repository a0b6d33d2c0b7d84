#include "cuda/solver.h"

#include "core/error.h"

namespace grinqh::cuda {

namespace {

void check_solver(cusolverStatus_t status, const char* call) {
  if (status != CUSOLVER_STATUS_SUCCESS) fail("CUDA: {}: cuSOLVER status {}", call, static_cast<int>(status));
}

void check_blas(cublasStatus_t status, const char* call) {
  if (status != CUBLAS_STATUS_SUCCESS) fail("CUDA: {}: {}", call, cublasGetStatusString(status));
}

// The libraries are column-major: the lower triangle of ours is their upper one, transposed.
constexpr cublasFillMode_t kLower = CUBLAS_FILL_MODE_UPPER, kUpper = CUBLAS_FILL_MODE_LOWER;

}  // namespace

Solver::Solver(Stream stream) : stream_(stream) {
  check_solver(cusolverDnCreate(&solver_), "cusolverDnCreate");
  check_solver(cusolverDnSetStream(solver_, stream), "cusolverDnSetStream");
  check_solver(cusolverDnCreateParams(&parameters_), "cusolverDnCreateParams");
  check_blas(cublasCreate(&blas_), "cublasCreate");
  check_blas(cublasSetStream(blas_, stream), "cublasSetStream");
  check_blas(cublasSetMathMode(blas_, CUBLAS_DEFAULT_MATH), "cublasSetMathMode");
}

Solver::~Solver() {
  cublasDestroy(blas_);
  cusolverDnDestroyParams(parameters_);
  cusolverDnDestroy(solver_);
}

template <class Call>
int Solver::with_workspace(size_t device_bytes, size_t host_bytes, const Call& call) {
  // syevd reads bytes of its workspace that nothing wrote: with zeros, what initcheck reports is ours.
  const Bytes device(static_cast<int64_t>(device_bytes), stream_);
  fill_zero(device.data(), device.size(), stream_);
  std::vector<char> host(host_bytes);
  const Array<int> info(1, stream_);
  call(device.data(), host.data(), info.data());
  int result = 0;
  to_host(info.data(), &result, sizeof(result), stream_);
  check(result >= 0, "arguments of cuSOLVER");
  return result;
}

bool Solver::factor(double* a, int64_t n) {
  size_t device = 0, host = 0;
  check_solver(cusolverDnXpotrf_bufferSize(solver_, parameters_, kLower, n, CUDA_R_64F, a, n, CUDA_R_64F,
                                           &device, &host),
               "cusolverDnXpotrf_bufferSize");
  return with_workspace(device, host, [&](void* work, void* host_work, int* info) {
           check_solver(cusolverDnXpotrf(solver_, parameters_, kLower, n, CUDA_R_64F, a, n, CUDA_R_64F, work,
                                         device, host_work, host, info),
                        "cusolverDnXpotrf");
         }) == 0;
}

// With a = [A 0; B C] the inverse is [A^-1 0; -C^-1 B A^-1, C^-1]: half the work is then two triangular
// solves, which are several times faster than cuSOLVER's own inversion.
void Solver::invert_lower(double* a, int64_t n, int64_t stride) {
  constexpr int64_t kWhole = 512;
  if (n <= kWhole) return invert_small(a, n, stride);
  const int64_t half = n / 2;
  double *b = a + half * stride, *c = b + half;
  const double minus = -1, one = 1;
  const auto as_int = [](int64_t value) { return static_cast<int>(value); };
  check_blas(cublasDtrsm(blas_, CUBLAS_SIDE_LEFT, kLower, CUBLAS_OP_N, CUBLAS_DIAG_NON_UNIT, as_int(half),
                         as_int(n - half), &minus, a, as_int(stride), b, as_int(stride)),
             "cublasDtrsm");
  check_blas(cublasDtrsm(blas_, CUBLAS_SIDE_RIGHT, kLower, CUBLAS_OP_N, CUBLAS_DIAG_NON_UNIT, as_int(half),
                         as_int(n - half), &one, c, as_int(stride), b, as_int(stride)),
             "cublasDtrsm");
  invert_lower(a, half, stride);
  invert_lower(c, n - half, stride);
}

void Solver::invert_small(double* a, int64_t n, int64_t stride) {
  size_t device = 0, host = 0;
  check_solver(cusolverDnXtrtri_bufferSize(solver_, kLower, CUBLAS_DIAG_NON_UNIT, n, CUDA_R_64F, a, stride,
                                           &device, &host),
               "cusolverDnXtrtri_bufferSize");
  const int info = with_workspace(device, host, [&](void* work, void* host_work, int* result) {
    check_solver(cusolverDnXtrtri(solver_, kLower, CUBLAS_DIAG_NON_UNIT, n, CUDA_R_64F, a, stride, work,
                                  device, host_work, host, result),
                 "cusolverDnXtrtri");
  });
  check(info == 0, "a Cholesky factor is not singular");
}

bool Solver::eigenvectors(double* a, int64_t n, double* values) {
  constexpr cusolverEigMode_t kVectors = CUSOLVER_EIG_MODE_VECTOR;
  size_t device = 0, host = 0;
  check_solver(cusolverDnXsyevd_bufferSize(solver_, parameters_, kVectors, kUpper, n, CUDA_R_64F, a, n,
                                           CUDA_R_64F, values, CUDA_R_64F, &device, &host),
               "cusolverDnXsyevd_bufferSize");
  return with_workspace(device, host, [&](void* work, void* host_work, int* info) {
           check_solver(cusolverDnXsyevd(solver_, parameters_, kVectors, kUpper, n, CUDA_R_64F, a, n,
                                         CUDA_R_64F, values, CUDA_R_64F, work, device, host_work, host, info),
                        "cusolverDnXsyevd");
         }) == 0;
}

void Solver::multiply(ConstView a, bool transpose_a, ConstView b, bool transpose_b, View y, float alpha,
                      float beta) {
  check(a.type == Type::f32 && b.type == Type::f32 && y.type == Type::f32, "products in float32");
  if (y.rows == 0 || y.cols == 0) return;
  const auto as_int = [](int64_t value) { return static_cast<int>(value); };
  const auto operation = [](bool transposed) { return transposed ? CUBLAS_OP_T : CUBLAS_OP_N; };
  const int64_t shared = transpose_a ? a.rows : a.cols;
  // y^T = op(b)^T op(a)^T, which is how the column-major library sees ours.
  check_blas(cublasSgemm(blas_, operation(transpose_b), operation(transpose_a), as_int(y.cols),
                         as_int(y.rows), as_int(shared), &alpha, static_cast<const float*>(b.data),
                         as_int(b.stride), static_cast<const float*>(a.data), as_int(a.stride), &beta,
                         static_cast<float*>(y.data), as_int(y.stride)),
             "cublasSgemm");
}

void Solver::multiply_nt(ConstView a, ConstView b, View y, int64_t count, const Steps& steps) {
  check(a.type == Type::f32 && b.type == Type::f32 && y.type == Type::f32, "products in float32");
  check(a.cols == b.cols && y.rows == a.rows && y.cols == b.rows, "multiply_nt: shapes");
  if (y.rows == 0 || y.cols == 0 || count == 0) return;
  const auto as_int = [](int64_t value) { return static_cast<int>(value); };
  const float one = 1, zero = 0;
  check_blas(
      cublasSgemmStridedBatched(blas_, CUBLAS_OP_T, CUBLAS_OP_N, as_int(y.cols), as_int(y.rows),
                                as_int(a.cols), &one, static_cast<const float*>(b.data), as_int(b.stride),
                                steps.b, static_cast<const float*>(a.data), as_int(a.stride), steps.a, &zero,
                                static_cast<float*>(y.data), as_int(y.stride), steps.y, as_int(count)),
      "cublasSgemmStridedBatched");
}

}  // namespace grinqh::cuda
