// Layout "dense16": 16-bit floats, channel-major, so that a channel that is not read is a contiguous saving.
//
//   weights   [in][out] float16 or bfloat16
//
// Levels are 0 and 16: a channel is skipped or read exactly.
#pragma once

#include "core/dtype.h"
#include "quant/quantized_linear.h"

namespace grinqh {

struct DenseShape {
  int64_t out = 0;
  int64_t in = 0;
  DType dtype = DType::f16;  // or bf16
};

class DenseLinear final : public QuantizedLinear {
 public:
  // weights: [in * out] bits of shape.dtype, channel by channel.
  DenseLinear(DenseShape shape, std::vector<uint16_t> weights);

  int64_t in() const override { return shape_.in; }
  int64_t out() const override { return shape_.out; }
  std::string_view layout() const override { return "dense16"; }
  std::span<const Level> levels() const override;
  std::vector<NamedBuffer> buffers() const override;
  Json attributes() const override;
  BitCount read_bits(const LevelCounts& counts) const override;
  void dequantize_rows(std::span<const Level> levels, int64_t begin, int64_t end,
                       Matrix<float> w) const override;

  static std::unique_ptr<QuantizedLinear> rebuild(const Buffers& buffers, const Json& attributes);

 private:
  DenseShape shape_;
  std::vector<uint16_t> weights_;
};

}  // namespace grinqh
