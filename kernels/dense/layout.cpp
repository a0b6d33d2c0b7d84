#include "kernels/dense/layout.h"

#include <array>
#include <bit>
#include <cstring>

#include "core/error.h"

namespace grinqh {

namespace {

constexpr std::array<Level, 2> kLevels{0, 16};

float bf16_to_float(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

template <float (*decode)(uint16_t)>
void decode_rows(std::span<const uint16_t> weights, int64_t out, std::span<const Level> levels, int64_t begin,
                 int64_t end, Matrix<float> w) {
  for (size_t i = 0; i < levels.size(); ++i) {
    const auto channel = static_cast<int64_t>(i);
    const uint16_t* from = weights.data() + channel * out;
    if (levels[i] == 0)
      for (int64_t row = begin; row < end; ++row) w(row - begin, channel) = 0.0f;
    else
      for (int64_t row = begin; row < end; ++row) w(row - begin, channel) = decode(from[row]);
  }
}

}  // namespace

DenseLinear::DenseLinear(DenseShape shape, std::vector<uint16_t> weights)
    : shape_(shape), weights_(std::move(weights)) {
  check(shape_.dtype != DType::f32 && weights_.size() == static_cast<size_t>(shape_.in * shape_.out),
        "dense: buffer size");
}

std::span<const Level> DenseLinear::levels() const { return kLevels; }

std::vector<NamedBuffer> DenseLinear::buffers() const {
  return {{"weights", Role::codes, std::as_bytes(std::span(weights_))}};
}

Json DenseLinear::attributes() const {
  return {{"out", shape_.out}, {"in", shape_.in}, {"dtype", to_string(shape_.dtype)}};
}

std::unique_ptr<QuantizedLinear> DenseLinear::rebuild(const Buffers& buffers, const Json& attributes) {
  DenseShape shape;
  shape.out = attributes.at("out");
  shape.in = attributes.at("in");
  const std::string dtype = attributes.at("dtype");
  if (dtype != to_string(DType::f16) && dtype != to_string(DType::bf16))
    bad_input("dense16 layer: dtype '{}': allowed are F16 and BF16", dtype);
  shape.dtype = dtype == to_string(DType::f16) ? DType::f16 : DType::bf16;
  const auto found = buffers.find("weights");
  if (found == buffers.end()) bad_input("dense16 layer: buffer 'weights' is missing");
  std::vector<uint16_t> weights(static_cast<size_t>(shape.in * shape.out));
  if (found->second.size() != weights.size() * sizeof(uint16_t))
    bad_input("dense16 layer: buffers do not fit the attributes {}", attributes.dump());
  std::memcpy(weights.data(), found->second.data(), found->second.size());
  return std::make_unique<DenseLinear>(shape, std::move(weights));
}

BitCount DenseLinear::read_bits(const LevelCounts& counts) const {
  BitCount bits;
  bits[Role::codes] = int64_t{counts.channels[16]} * shape_.out * 16;
  return bits;
}

void DenseLinear::dequantize_rows(std::span<const Level> levels, int64_t begin, int64_t end,
                                  Matrix<float> w) const {
  if (shape_.dtype == DType::f16)
    decode_rows<from_half>(weights_, shape_.out, levels, begin, end, w);
  else
    decode_rows<bf16_to_float>(weights_, shape_.out, levels, begin, end, w);
}

namespace {
const RegisterLayout layout{"dense16", "16-bit floats, channel-major: a channel is skipped or read exactly",
                            DenseLinear::rebuild};
}

}  // namespace grinqh
