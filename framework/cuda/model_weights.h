// A model's float weights in device memory, in the type that its products multiply.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cuda/context.h"
#include "model/model.h"

namespace grinqh::cuda {

// One matrix; rows padded as Context's tensors are.
class OwnedMatrix {
 public:
  OwnedMatrix() = default;
  OwnedMatrix(const Context& context, int64_t rows, int64_t cols, Type type);
  View view() const { return view_; }

 private:
  Bytes bytes_;
  View view_;
};

// Bytes that the weights will take, and what a pass over `tokens` tokens needs besides.
struct MemoryPlan {
  int64_t weights = 0, activations = 0;
};
MemoryPlan plan_memory(const Model& model, Type type, int64_t tokens);

class ModelWeights {
 public:
  // Copies everything there. BadInput saying what is needed and what there is if it does not fit.
  ModelWeights(const Context& context, const Model& model);

  ConstView embedding() const { return embedding_.view(); }
  ConstView head() const { return tied_ ? embedding_.view() : head_.view(); }

  // q, k and v lie one below another in memory, and so do gate and up: products may take them together.
  struct Linear {
    View weight;        // [out, in]
    Array<float> bias;  // [out], or nothing
  };
  const Linear& linear(const std::string& id) const;

 private:
  void upload_stack(const Context& context, std::span<const LinearWeights* const> stack);

  std::vector<OwnedMatrix> stacks_;
  std::map<std::string, Linear, std::less<>> linears_;
  OwnedMatrix embedding_, head_;
  bool tied_ = false;
};

// A matrix of a checkpoint, or of the CPU, in the type asked for.
OwnedMatrix upload_matrix(const Context& context, const TensorView& tensor, Type type);
OwnedMatrix upload_matrix(const Context& context, Matrix<const float> matrix, Type type);

}  // namespace grinqh::cuda
