// Layout "group_affine": one width for all codes, an affine map a group of consecutive inputs of a row.
//
//   codes    [out][ceil(in * bits / 8)] bytes, packed little-endian along the inputs, rows start at a byte
//   scales   float16 [out][groups]
//   zeros    [out][ceil(groups * bits / 8)] bytes, packed like codes; absent if symmetric;
//            float16 [out][groups] if zero points are real numbers
//   column_scales  float16 [in], if the columns have scales of their own
//
// A weight decodes to column_scale * (scale * (code - zero)), column_scale = 1 if there are none; symmetric
// layers have zero = 2^(bits-1).
//
// Level: the codes' width. Channels of 8 bits may also be left out, level 0: their codes are bytes, which
// kernels for that case store channel by channel.
#pragma once

#include "core/matrix.h"
#include "core/plain_vector.h"
#include "quant/affine_grid.h"
#include "quant/quantized_linear.h"

namespace grinqh {

struct GroupAffineShape {
  int64_t out = 0;
  int64_t in = 0;
  int bits = 4;                // 2..8
  int64_t group = 128;         // 0: per channel (one group a row); the last group may be short
  bool symmetric = false;      // no zero points are stored
  bool real_zeros = false;     // zero points are float16, not integers of the codes' width
  bool column_scales = false;  // every input channel has a float16 factor

  // As attributes() of a layer has it.
  static GroupAffineShape of(const Json& attributes);
  bool operator==(const GroupAffineShape&) const = default;
  int64_t group_size() const;
  int64_t groups() const;
  // The weights of a row that share scale g.
  std::span<const float> group_of(std::span<const float> row, int64_t g) const;
  int64_t code_row_bytes() const { return (in * bits + 7) / 8; }
  int64_t zero_row_bytes() const {
    return symmetric ? 0 : real_zeros ? groups() * 2 : (groups() * bits + 7) / 8;
  }
};

class GroupAffineLinear final : public QuantizedLinear {
 public:
  // codes: [out, in]; scales: float16 [out, groups]; zeros: [out, groups], ignored if symmetric;
  // column_scales: float16 [in], empty if the shape has none.
  GroupAffineLinear(GroupAffineShape shape, Matrix<const uint8_t> codes, Matrix<const uint16_t> scales,
                    Matrix<const uint8_t> zeros, std::span<const uint16_t> column_scales = {});
  // The same with real zero points, float16 [out, groups].
  GroupAffineLinear(GroupAffineShape shape, Matrix<const uint8_t> codes, Matrix<const uint16_t> scales,
                    Matrix<const uint16_t> zeros, std::span<const uint16_t> column_scales = {});

  int64_t in() const override { return shape_.in; }
  int64_t out() const override { return shape_.out; }
  std::string_view layout() const override { return "group_affine"; }
  std::span<const Level> levels() const override;
  std::vector<NamedBuffer> buffers() const override;
  Json attributes() const override;
  BitCount read_bits(const LevelCounts& counts) const override;
  void dequantize_rows(std::span<const Level> levels, int64_t begin, int64_t end,
                       Matrix<float> w) const override;

  static std::unique_ptr<QuantizedLinear> rebuild(const Buffers& buffers, const Json& attributes);

 private:
  GroupAffineLinear() = default;
  // All but the zero points.
  GroupAffineLinear(const GroupAffineShape& shape, Matrix<const uint8_t> codes, Matrix<const uint16_t> scales,
                    std::span<const uint16_t> column_scales);
  // Zero points of a row as they enter the formula. zeros: [groups]
  void read_zeros(int64_t row, std::span<float> zeros) const;

  GroupAffineShape shape_;
  Level levels_[2] = {0, 0};  // the second one is the codes' width
  PlainVector<uint8_t> codes_;
  std::vector<uint8_t> zeros_;  // as they are stored, of either kind
  std::vector<uint16_t> scales_, column_scales_;
};

// From codes [out, in] and the grid of every group [out, groups].
std::unique_ptr<GroupAffineLinear> make_group_affine(const GroupAffineShape& shape,
                                                     Matrix<const uint8_t> codes,
                                                     Matrix<const AffineGrid> grids,
                                                     std::span<const uint16_t> column_scales = {});

}  // namespace grinqh
