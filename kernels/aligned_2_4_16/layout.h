// Layout "aligned_2_4_16": groups of 16 inputs, shared by all rows, of 2 or of 4 bits; scales of the narrow
// groups are themselves quantized by blocks of 16 rows; single weights of narrow groups lie apart in float16
// (after Li et al., 2311.16442). Narrow groups are numbered among themselves, and so are wide ones.
//
//   wide            [ceil(groups / 8)] bytes: bit g % 8 of byte g / 8 says that group g has 4 bits
//   codes           uint32 [out][groups]: 16 codes of 2 bits, or the first 8 of 4 bits, the first lowest; so
//                   four groups make one vector load wherever the wide ones are
//   split           uint32 [out][wide groups]: the other 8 codes of 4 bits
//   first           uint16 [out][ceil(narrow groups / 3)]: zeros of three groups in 2 + 2 + 2 bits, then
//   their
//                   scale codes in 3 + 3 + 4 bits
//   second_scales   float16 [ceil(out / 16)][narrow groups]
//   second_zeros    uint16 [ceil(out / 16)][ceil(narrow groups / 4)]: 4 bits each (of which a group whose
//                   scale codes have 3 bits uses 3)
//   wide_scales     float16 [out][wide groups]
//   wide_zeros      [wide groups][ceil(out / 2)] bytes: 4 bits a row
//   outlier_counts  uint16 [out]; outlier_columns uint16, outlier_values float16, row after row
//
// A weight decodes to  scale (code - zero),  in a narrow group with scale = second_scale (scale code + second
// zero); an outlier is added to that, and its code is the zero point.
#pragma once

#include <vector>

#include "core/matrix.h"
#include "quant/quantized_linear.h"

namespace grinqh {

struct Aligned2416Shape {
  static constexpr int64_t kGroup = 16;      // inputs; the last group may be short
  static constexpr int64_t kBlockRows = 16;  // rows whose scales share a second scale; the last may be short

  int64_t out = 0;
  int64_t in = 0;
  std::vector<uint8_t> wide;  // [groups], 1 for a group of 4 bits

  int64_t groups() const { return (in + kGroup - 1) / kGroup; }
  int64_t wide_groups() const;
  int64_t narrow_groups() const { return groups() - wide_groups(); }
  int64_t row_blocks() const { return (out + kBlockRows - 1) / kBlockRows; }
  int64_t width_of(int64_t group) const { return std::min(kGroup, in - group * kGroup); }
  int64_t wide_inputs() const;
  // The number of a group among those of its kind.
  std::vector<int64_t> places() const;
  // Of the scale code, and of the second zero, of a narrow group by its number.
  static int scale_bits(int64_t place) { return place % 3 == 2 ? 4 : 3; }
};

struct Outlier {
  int64_t row, column;
  uint16_t value;  // float16
};

// What a layer is made of, one value each. Per group g of all groups; what its kind does not have is ignored.
struct Aligned2416Parts {
  explicit Aligned2416Parts(const Aligned2416Shape& shape);

  MatrixBuffer<uint8_t> codes;           // [out, in]
  MatrixBuffer<uint8_t> zeros;           // [out, groups]
  MatrixBuffer<uint16_t> wide_scales;    // float16 [out, groups]
  MatrixBuffer<uint8_t> scale_codes;     // [out, groups]
  MatrixBuffer<uint16_t> second_scales;  // float16 [row_blocks, groups]
  MatrixBuffer<uint8_t> second_zeros;    // [row_blocks, groups]
  std::vector<Outlier> outliers;         // by row, then column; in narrow groups
};

class Aligned2416Linear final : public QuantizedLinear {
 public:
  // At most 2^16 inputs: a column is stored in 16 bits.
  Aligned2416Linear(Aligned2416Shape shape, const Aligned2416Parts& parts);

  int64_t in() const override { return shape_.in; }
  int64_t out() const override { return shape_.out; }
  std::string_view layout() const override { return "aligned_2_4_16"; }
  std::span<const Level> levels() const override { return {&level_, 1}; }
  std::vector<NamedBuffer> buffers() const override;
  Json attributes() const override;
  BitCount read_bits(const LevelCounts& counts) const override;
  void dequantize_rows(std::span<const Level> levels, int64_t begin, int64_t end,
                       Matrix<float> w) const override;

  static std::unique_ptr<QuantizedLinear> rebuild(const Buffers& buffers, const Json& attributes);

 private:
  Aligned2416Linear() = default;
  void pack_row(const Aligned2416Parts& parts, int64_t row);
  void pack_block(const Aligned2416Parts& parts, int64_t block);

  int64_t first_words() const { return (shape_.narrow_groups() + 2) / 3; }   // of a row
  int64_t second_words() const { return (shape_.narrow_groups() + 3) / 4; }  // of a block of rows
  int64_t wide_zero_bytes() const { return (shape_.out + 1) / 2; }           // of a group
  float narrow_scale(int64_t row, int64_t place) const;
  int zero_of(int64_t row, int64_t group, int64_t place) const;

  // One level, the width of the wide groups: it names the layer's full precision.
  static constexpr Level level_ = 4;
  Aligned2416Shape shape_;
  std::vector<int64_t> places_;
  std::vector<uint8_t> wide_, wide_zeros_;
  std::vector<uint32_t> codes_, split_;
  std::vector<uint16_t> first_, second_scales_, second_zeros_, wide_scales_;
  std::vector<uint16_t> outlier_counts_, outlier_columns_, outlier_values_;
};

}  // namespace grinqh
