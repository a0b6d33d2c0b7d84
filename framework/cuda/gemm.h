// Matrix products by cuBLASLt. Operands of one type each: bf16 times bf16 with float32 accumulation, or
// float32 throughout (no TF32). Outputs are f32 or bf16.
#pragma once

#include <memory>

#include "cuda/types.h"

namespace grinqh::cuda {

class Gemm {
 public:
  // Of the current device, for one stream at a time (products share a workspace of 64 MiB). Algorithms are
  // chosen once per shape and remembered; the first product of a large shape tries some, and waits for the
  // stream. The choice does not change results: all add in the order of K.
  Gemm();
  ~Gemm();

  // y[T, N] = alpha x[T, K] w[N, K]^T + beta y.
  void nt(ConstView x, ConstView w, View y, float alpha, float beta, Stream stream);
  // y[T, N] = alpha x[T, K] w[K, N] + beta y.
  void nn(ConstView x, ConstView w, View y, float alpha, float beta, Stream stream);
  // y[M, N] = alpha a[K, M]^T b[K, N] + beta y.
  void tn(ConstView a, ConstView b, View y, float alpha, float beta, Stream stream);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace grinqh::cuda
