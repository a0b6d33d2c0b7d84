#include "cuda/product_timer.h"

#include <algorithm>

#include "core/rng.h"
#include "cuda/model_weights.h"

namespace grinqh::cuda {

double time_product(const Context& context, int64_t tokens, int64_t in, int64_t out) {
  constexpr int kRepetitions = 8;
  const auto random = [&](int64_t rows, int64_t cols) {
    constexpr int64_t kDistinct = 4096;  // rows; the product does not mind that they come again
    MatrixBuffer<float> host(std::min(rows, kDistinct), cols);
    Rng rng(static_cast<uint64_t>(rows));
    for (int64_t i = 0; i < host.size(); ++i) host.data()[i] = static_cast<float>(rng.uniform() - 0.5);
    OwnedMatrix matrix(context, rows, cols, context.type());
    for (int64_t first = 0; first < rows; first += host.rows()) {
      const int64_t count = std::min(host.rows(), rows - first);
      context.copy(host.view().rows_between(0, count),
                   activations(matrix.view().rows_between(first, first + count)));
    }
    return matrix;
  };
  const OwnedMatrix x = random(tokens, in), w = random(out, in), y(context, tokens, out, context.type());
  const auto run = [&] { context.gemm().nt(x.view(), w.view(), y.view(), 1.0f, 0.0f, context.stream()); };
  run();
  cudaEvent_t begin = nullptr, end = nullptr;
  check_call(cudaEventCreate(&begin), "cudaEventCreate");
  check_call(cudaEventCreate(&end), "cudaEventCreate");
  check_call(cudaEventRecord(begin, context.stream()), "cudaEventRecord");
  for (int i = 0; i < kRepetitions; ++i) run();
  check_call(cudaEventRecord(end, context.stream()), "cudaEventRecord");
  context.synchronize();
  float milliseconds = 0;
  check_call(cudaEventElapsedTime(&milliseconds, begin, end), "cudaEventElapsedTime");
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  return static_cast<double>(milliseconds) * 1e-3 / kRepetitions;
}

}  // namespace grinqh::cuda
