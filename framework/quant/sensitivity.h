// How much the loss minds an error of a single weight: the diagonal of a quadratic model of it.
#pragma once

#include <span>
#include <string>

#include "core/option_fields.h"
#include "quant/quantizer.h"

namespace grinqh {

class Sensitivity {
 public:
  // "fisher": mean squared gradient of the model's loss with respect to the weight; "second_moment": mean
  // square of its input, the diagonal of the layer's output error; "none": all weights the same.
  static OneOf kinds() { return {{"fisher", "second_moment", "none"}}; }
  static CollectorNames needs(const std::string& kind);

  // Keeps a view of the task's statistics. BadInput naming the layer if they are not finite or negative.
  Sensitivity(const std::string& kind, const LinearTask& task);

  // Of the weights of a row, [in].
  std::span<const float> row(int64_t row) const;
  // Of the first `rows` rows; of stride 0 where all have the same.
  Matrix<const float> rows(int64_t rows) const;

 private:
  std::vector<float> shared_;      // [in]: one for all rows
  Matrix<const float> by_weight_;  // [out, in], or empty
};

}  // namespace grinqh
