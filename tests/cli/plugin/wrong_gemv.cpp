// Decoding kernels outside the tree: one that multiplies wrongly, one that takes no layer.
#include <algorithm>

#include "quant/gemv.h"

namespace grinqh {
namespace {

class WrongGemv final : public Gemv {
 public:
  WrongGemv(int64_t out, int64_t in) : Gemv(out, in) {}
  int64_t bytes() const override { return out() * in() * 4; }
  int64_t bytes_read(const LevelCounts&) const override { return bytes(); }
  std::unique_ptr<Gemv> clone() const override { return std::make_unique<WrongGemv>(out(), in()); }
  void run(Matrix<const float>, const Precision&, Matrix<float> y) const override {
    for (int64_t t = 0; t < y.rows; ++t) std::fill_n(y.row(t), y.cols, 1.0f);
  }
};

const RegisterGemv wrong{"dense32", "outside_wrong", "ones, whatever the weights",
                         [](const QuantizedLinear& layer) -> std::unique_ptr<Gemv> {
                           return std::make_unique<WrongGemv>(layer.out(), layer.in());
                         }};
const RegisterGemv none{"dense32", "outside_none", "takes nothing",
                        [](const QuantizedLinear&) { return std::unique_ptr<Gemv>(); }};

}  // namespace
}  // namespace grinqh
