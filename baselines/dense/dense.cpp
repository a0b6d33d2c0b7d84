// The float baseline with its bits counted: every weight rounded to a 16-bit float.
#include <bit>

#include "core/dtype.h"
#include "kernels/dense/layout.h"
#include "quant/quantizer.h"

namespace grinqh {
namespace {

class Dense final : public Quantizer {
 public:
  struct Options {
    std::string dtype = "float16";
    template <class V>
    void fields(V& v) {
      v("dtype", dtype, OneOf{{"float16", "bfloat16"}}, "what weights are rounded to");
    }
  };

  explicit Dense(const Options& options) : dtype_(options.dtype == "float16" ? DType::f16 : DType::bf16) {}

  std::unique_ptr<QuantizedLinear> quantize(const LinearTask& task) const override {
    const int64_t out = task.weight.rows, in = task.weight.cols;
    std::vector<uint16_t> weights(static_cast<size_t>(in * out));
    for (int64_t row = 0; row < out; ++row)
      for (int64_t i = 0; i < in; ++i)
        weights[static_cast<size_t>(i * out + row)] = rounded(task.weight(row, i), task.id);
    return std::make_unique<DenseLinear>(DenseShape{out, in, dtype_}, std::move(weights));
  }

 private:
  uint16_t rounded(float weight, const std::string& layer) const {
    const bool half = dtype_ == DType::f16;
    const uint16_t bits =
        half ? to_half(weight)
             : static_cast<uint16_t>(std::bit_cast<uint32_t>(rounded_to(DType::bf16, weight)) >> 16);
    const int infinity = half ? 0x7c00 : 0x7f80;
    if ((bits & 0x7fff) >= infinity)
      bad_input("{}: weight {} does not fit into {}: its magnitude must be below {}", layer, weight,
                to_string(dtype_), half ? "65520" : "3.4e38");
    return bits;
  }

  DType dtype_;
};

const Register<Quantizer, Dense> plugin{"dense", "16-bit floats: the float model with its bits counted"};

}  // namespace
}  // namespace grinqh
