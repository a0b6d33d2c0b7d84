// Layout "group_mixed": groups of consecutive inputs, each with a width of its own that all rows share.
//
//   widths   [groups] bytes: bits of a code, 1..8
//   codes    [out][ceil(sum of width * inputs over groups / 8)] bytes, packed little-endian along the inputs,
//            rows start at a byte
//   scales   float16 [out][groups]
//   zeros    [out][ceil(sum of widths above 1 / 8)] bytes: a zero point for each group wider than one bit, as
//            wide as its codes, packed like them
//   means    float16 [out][groups of one bit]
//
// A weight decodes to  scale (code - zero),  in a group of one bit to  mean + scale (2 code - 1).
#pragma once

#include <vector>

#include "core/matrix.h"
#include "quant/quantized_linear.h"

namespace grinqh {

struct GroupMixedShape {
  int64_t out = 0;
  int64_t in = 0;
  int64_t group = 128;          // inputs; the last group may be short
  std::vector<uint8_t> widths;  // [groups]

  int64_t group_size() const;
  int64_t groups() const;
  int64_t begin_of(int64_t g) const { return g * group_size(); }
  int64_t end_of(int64_t g) const;
  int64_t code_row_bits() const;
  int64_t zero_row_bits() const;
  int64_t binary_groups() const;
};

// One value each, [out, in] or [out, groups].
struct GroupMixedParts {
  explicit GroupMixedParts(const GroupMixedShape& shape);

  MatrixBuffer<uint8_t> codes;
  MatrixBuffer<uint16_t> scales;  // float16
  MatrixBuffer<uint8_t> zeros;    // of groups wider than one bit
  MatrixBuffer<uint16_t> means;   // float16, of groups of one bit
};

// One row of them.
struct GroupMixedRow {
  explicit GroupMixedRow(const GroupMixedShape& shape);

  std::vector<uint8_t> codes;           // [in]
  std::vector<uint8_t> zeros;           // [groups]
  std::vector<uint16_t> scales, means;  // [groups]
};

class GroupMixedLinear final : public QuantizedLinear {
 public:
  GroupMixedLinear(GroupMixedShape shape, const GroupMixedParts& parts);

  int64_t in() const override { return shape_.in; }
  int64_t out() const override { return shape_.out; }
  std::string_view layout() const override { return "group_mixed"; }
  // One level, the greatest width: it names the layer's full precision.
  std::span<const Level> levels() const override { return {&level_, 1}; }
  std::vector<NamedBuffer> buffers() const override;
  Json attributes() const override;
  BitCount read_bits(const LevelCounts& counts) const override;
  void dequantize_rows(std::span<const Level> levels, int64_t begin, int64_t end,
                       Matrix<float> w) const override;

  const GroupMixedShape& shape() const { return shape_; }
  void read_row(int64_t row, GroupMixedRow& to) const;

  static std::unique_ptr<QuantizedLinear> rebuild(const Buffers& buffers, const Json& attributes);

 private:
  GroupMixedLinear() = default;
  int64_t code_row_bytes() const { return (shape_.code_row_bits() + 7) / 8; }
  int64_t zero_row_bytes() const { return (shape_.zero_row_bits() + 7) / 8; }

  GroupMixedShape shape_;
  Level level_ = 0;
  std::vector<uint8_t> codes_, zeros_;
  std::vector<uint16_t> scales_, means_;
};

}  // namespace grinqh
