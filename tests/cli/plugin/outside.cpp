// Plugins outside the tree, as a user builds them: a shared library that sees the framework's headers only.
// The environment variable OUTSIDE_FAILS names the one that fails on the layers of a real model.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string_view>

#include "core/dtype.h"
#include "kernels/group_affine/layout.h"
#include "quant/precision_policy.h"
#include "quant/quantizer.h"

namespace grinqh {
namespace {

void fail_if_asked(std::string_view who, const LinearTask& task) {
  const char* asked = std::getenv("OUTSIDE_FAILS");
  if (asked && who == asked && task.id.ends_with("layers.3.mlp.up_proj"))
    fail("{} was asked to fail,\nand did at {}", who, task.id);
}

// 8 bits, symmetric, one scale a row.
class Outside final : public Quantizer {
 public:
  struct Options {
    double shrink = 1.0;
    template <class V>
    void fields(V& v) {
      v("shrink", shrink, Range{0.5, 1}, "share of the range that the grid covers");
    }
  };
  explicit Outside(Options options) : options_(options) {}

  std::unique_ptr<QuantizedLinear> quantize(const LinearTask& task) const override {
    fail_if_asked("outside", task);
    const Matrix<const float> w = task.weight;
    const GroupAffineShape shape{w.rows, w.cols, 8, 0, true};
    MatrixBuffer<uint8_t> codes(w.rows, w.cols), zeros(w.rows, 1);
    MatrixBuffer<uint16_t> scales(w.rows, 1);
    for (int64_t row = 0; row < w.rows; ++row) {
      float largest = 0;
      for (const float value : w.row_span(row)) largest = std::max(largest, std::abs(value));
      scales.row(row)[0] = to_half(static_cast<float>(options_.shrink) * 2 * largest / 255);
      const float scale = from_half(scales.row(row)[0]);
      for (int64_t i = 0; i < w.cols; ++i)
        codes.row(row)[i] =
            static_cast<uint8_t>(std::clamp(std::nearbyint(w(row, i) / scale) + 128, 0.0f, 255.0f));
    }
    return std::make_unique<GroupAffineLinear>(shape, codes, scales, zeros);
  }

 private:
  Options options_;
};

class OutsidePolicy final : public PrecisionPolicy {
 public:
  struct Options {
    template <class V>
    void fields(V&) {}
  };
  explicit OutsidePolicy(Options) {}
  void prepare(const LinearTask& task, const QuantizedLinear&) override {
    fail_if_asked("outside_policy", task);
  }
  Precision choose(const std::string&, std::span<const Step>, Matrix<const float>,
                   Matrix<Level>) const override {
    return {kFullLevel, {}};
  }
};

const Register<Quantizer, Outside> quantizer{"outside", "8 bits a weight, one scale a row"};
const Register<PrecisionPolicy, OutsidePolicy> policy{"outside_policy", "reads everything"};

}  // namespace
}  // namespace grinqh
