#include "core/gemm.h"

#include <cblas.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "core/accelerator.h"
#include "core/error.h"
#include "core/ordered_product.h"
#include "core/parallel.h"
#include "core/rng.h"

namespace grinqh {

namespace {

// BLAS counts in int.
int as_int(int64_t value) { return static_cast<int>(value); }

// Before the library's first product: threads are ours, not the library's.
void keep_blas_serial() {
  static const bool once = (openblas_set_num_threads(1), true);
  (void)once;
}

void multiply(Matrix<const float> x, const OrderedFactor& w, Matrix<float> y, Output output) {
  std::vector<float*> rows;
  for (int64_t t = 0; t < y.rows; ++t) {
    rows.push_back(y.row(t));
    if (output == Output::overwrite) std::fill_n(y.row(t), y.cols, 0.0f);
  }
  add_ordered_product(x, w, rows);
}

// The extent cut into the fewest parts of at most `limit`, all nearly alike; parts are multiples of `unit`.
int64_t even_tile(int64_t extent, int64_t limit, int64_t unit) {
  const int64_t parts = (extent + limit - 1) / limit;
  return ((extent + parts - 1) / parts + unit - 1) / unit * unit;
}

// Tiles are large enough to amortize the packing of the weights; for a few tokens these are cut finer, so
// that all threads stream them. Units are what the product holds in registers.
struct Tiles {
  int64_t tokens, outputs;
};
Tiles tiles_for(int64_t tokens, int64_t outputs) {
  if (tokens <= 16) return {16, 128};
  return {even_tile(tokens, 512, 6), even_tile(outputs, 768, 64)};
}

template <class Product>
void tiled(Matrix<float> y, const Product& product) {
  if (y.empty()) return;
  const Tiles tile = tiles_for(y.rows, y.cols);
  const int64_t down = (y.rows + tile.tokens - 1) / tile.tokens;
  const int64_t across = (y.cols + tile.outputs - 1) / tile.outputs;
  parallel_for(down * across, [&](int64_t task) {
    const int64_t t = task / across * tile.tokens;
    const int64_t n = task % across * tile.outputs;
    product(t, std::min(t + tile.tokens, y.rows), n, std::min(n + tile.outputs, y.cols));
  });
}

}  // namespace

void matmul_nt(Matrix<const float> x, Matrix<const float> w, Matrix<float> y, Output output) {
  tiled(y, [&](int64_t t0, int64_t t1, int64_t n0, int64_t n1) {
    matmul_nt_serial(x.rows_between(t0, t1), w.rows_between(n0, n1),
                     y.rows_between(t0, t1).cols_between(n0, n1), output);
  });
}

void matmul_nn(Matrix<const float> x, Matrix<const float> w, Matrix<float> y, Output output) {
  tiled(y, [&](int64_t t0, int64_t t1, int64_t n0, int64_t n1) {
    matmul_nn_serial(x.rows_between(t0, t1), w.cols_between(n0, n1),
                     y.rows_between(t0, t1).cols_between(n0, n1), output);
  });
}

void matmul_nt_serial(Matrix<const float> x, Matrix<const float> w, Matrix<float> y, Output output) {
  multiply(x, {w, true}, y, output);
}

void matmul_nn_serial(Matrix<const float> x, Matrix<const float> w, Matrix<float> y, Output output) {
  multiply(x, {w, false}, y, output);
}

void matmul_tn_serial(Matrix<const float> x, Matrix<const float> w, Matrix<float> y, float scale,
                      Output output) {
  keep_blas_serial();
  if (y.rows == 0 || y.cols == 0) return;
  cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, as_int(y.rows), as_int(y.cols), as_int(x.rows), scale,
              x.data, as_int(x.stride), w.data, as_int(w.stride), output == Output::add ? 1.0f : 0.0f, y.data,
              as_int(y.stride));
}

namespace {

// Whether an accelerator computed it.
bool accelerated(const Factor& a, const Factor& b, Matrix<float> y, Output output) {
  constexpr double kWorth = 0x1p32, kWorthOfByte = 64;
  const double operations =
      2.0 * static_cast<double>(a.rows()) * static_cast<double>(a.cols()) * static_cast<double>(b.cols());
  const auto moved = static_cast<double>(a.rows() * a.cols() + b.rows() * b.cols() +
                                         y.rows * y.cols * (output == Output::add ? 2 : 1));
  if (operations < kWorth || operations < kWorthOfByte * sizeof(float) * moved) return false;
  const std::shared_ptr<Accelerator> installed = accelerator();
  if (installed) installed->multiply(a, b, y, output);
  return installed != nullptr;
}

}  // namespace

void product_nt(Matrix<const float> x, Matrix<const float> w, Matrix<float> y, Output output) {
  if (!accelerated({x}, {w, true}, y, output)) matmul_nt(x, w, y, output);
}

void product_nn(Matrix<const float> x, Matrix<const float> w, Matrix<float> y, Output output) {
  if (!accelerated({x}, {w}, y, output)) matmul_nn(x, w, y, output);
}

void product_tn(Matrix<const float> x, Matrix<const float> w, Matrix<float> y, Output output) {
  if (!accelerated({x, true}, {w}, y, output)) matmul_tn_serial(x, w, y, 1.0f, output);
}

namespace {

// sum += left^T right in float32 products of one batch, added in float64. Symmetric: only tiles on and above
// the diagonal.
void add_products(Matrix<const float> left, Matrix<const float> right, bool symmetric, Matrix<double> sum) {
  const int64_t tile = even_tile(left.cols, 256, 16);
  const int64_t tiles = (left.cols + tile - 1) / tile;
  parallel_for(tiles * tiles, [&](int64_t task) {
    const int64_t i0 = task / tiles * tile, j0 = task % tiles * tile;
    if (symmetric && j0 < i0) return;
    const int64_t i1 = std::min(i0 + tile, left.cols), j1 = std::min(j0 + tile, left.cols);
    MatrixBuffer<float> part(i1 - i0, j1 - j0);
    matmul_tn_serial(left.cols_between(i0, i1), right.cols_between(j0, j1), part);
    for (int64_t i = i0; i < i1; ++i)
      for (int64_t j = j0; j < j1; ++j) sum(i, j) += static_cast<double>(part.row(i - i0)[j - j0]);
  });
}

}  // namespace

void add_gram(Matrix<const float> x, Matrix<double> sum) { add_products(x, x, true, sum); }

void add_cross_gram(Matrix<const float> left, Matrix<const float> right, Matrix<double> sum) {
  check(left.rows == right.rows && left.cols == right.cols, "add_cross_gram: shapes");
  add_products(left, right, false, sum);
}

double time_blas_sgemm(int64_t tokens, int64_t in, int64_t out, int repetitions) {
  MatrixBuffer<float> x(tokens, in), w(out, in), y(tokens, out);
  Rng rng(1);
  for (int64_t i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(rng.uniform() - 0.5);
  for (int64_t i = 0; i < w.size(); ++i) w.data()[i] = static_cast<float>(rng.uniform() - 0.5);
  const int t = as_int(tokens), k = as_int(in), n = as_int(out);
  keep_blas_serial();
  openblas_set_num_threads(threads());
  double best = 0;
  for (int i = 0; i <= repetitions; ++i) {  // the first is the warm-up
    const auto start = std::chrono::steady_clock::now();
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, t, n, k, 1.0f, x.data(), k, w.data(), k, 0.0f,
                y.data(), n);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (i == 1 || (i > 1 && seconds < best)) best = seconds;
  }
  openblas_set_num_threads(1);
  return best;
}

std::string blas_version() { return openblas_get_config(); }

}  // namespace grinqh
