// Transformers of the embedded models on the first GPU; tests that use them skip where there is none.
#pragma once

#include <memory>

#include "core/backend_module.h"
#include "core/progress.h"
#include "embedded_models.h"
#include "model_files.h"
#include "numbers.h"

namespace grinqh::testing {

// A module that is there but cannot be loaded is a defect, not a reason to skip.
#define GRINQH_NEED_GPU()                                                                \
  ASSERT_EQ(why_no_cuda().find("cannot be loaded"), std::string::npos) << why_no_cuda(); \
  if (cuda_devices() == 0) GTEST_SKIP() << why_no_cuda()

inline std::unique_ptr<Transformer> on_gpu(const Model& model, Arithmetic arithmetic) {
  Progress::set_enabled(false);
  return make_transformer(model, {Device::cuda, 0, arithmetic});
}

// ||a - b|| / ||b||
inline double relative_difference(Matrix<const float> a, Matrix<const float> b) {
  double difference = 0, norm = 0;
  for (int64_t t = 0; t < b.rows; ++t)
    for (int64_t i = 0; i < b.cols; ++i) {
      const double expected = b(t, i), error = static_cast<double>(a(t, i)) - expected;
      difference += error * error;
      norm += expected * expected;
    }
  return std::sqrt(difference / norm);
}

inline Matrix<const float> as_row(std::span<const float> values) {
  return {values.data(), 1, static_cast<int64_t>(values.size())};
}

}  // namespace grinqh::testing
