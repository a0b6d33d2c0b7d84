// Layout "nested": codes of up to 8 bits as bit planes, most significant first, each plane channel-major.
// Level b of channel i is a prefix of its planes, so what is not read is a contiguous saving.
//
//   planes   [bit][in][ceil(out / 8)] bytes; row n of a channel is bit n % 8 of byte n / 8
//   scales   float16, minima float16; groups along the inputs: [out][ceil(in / group)], read by every token;
//            groups along the outputs: [in][ceil(out / group)], skipped with their channel
//   table    optional, float16: 2^b positions for each level b = 1 .. table_levels, in units of the 8-bit
//   step
//
// A weight decodes to  minimum + scale * position,  position = 2^(8-b) (t + 1/2) for the b-bit prefix t of
// its code (the middle of its cell), or the table's entry (specs: GRINQH, arXiv 2606.23419, reconstructed).
#pragma once

#include "core/matrix.h"
#include "core/plain_vector.h"
#include "quant/quantized_linear.h"

namespace grinqh {

enum class GroupAxis : uint8_t { input, output };

struct NestedShape {
  int64_t out = 0;
  int64_t in = 0;
  int64_t group = 128;  // 0: the whole axis
  GroupAxis axis = GroupAxis::output;
  std::vector<Level> levels;  // ascending, within 0..8; planes beyond the last are not stored
  int table_levels = 0;       // levels 1..table_levels decode through the table

  // As attributes() of a layer has it.
  static NestedShape of(const Json& attributes);
  int64_t group_size() const;
  int64_t groups() const;      // along the axis
  int64_t parameters() const;  // scales in all
  // Which scale belongs to a weight.
  int64_t parameter(int64_t row, int64_t channel) const;
  int planes() const { return levels.back(); }
  // First entry of level b's part of the table, and its size in all.
  static int64_t table_offset(int level) { return (int64_t{1} << level) - 2; }
};

class NestedLinear final : public QuantizedLinear {
 public:
  // codes: [out, in], 8 bits each. scales, minima: float16, [shape.parameters()]. table: float16.
  NestedLinear(NestedShape shape, Matrix<const uint8_t> codes, std::vector<uint16_t> scales,
               std::vector<uint16_t> minima, std::vector<uint16_t> table);

  int64_t in() const override { return shape_.in; }
  int64_t out() const override { return shape_.out; }
  std::string_view layout() const override { return "nested"; }
  std::span<const Level> levels() const override { return shape_.levels; }
  std::vector<NamedBuffer> buffers() const override;
  Json attributes() const override;
  BitCount read_bits(const LevelCounts& counts) const override;
  void dequantize_rows(std::span<const Level> levels, int64_t begin, int64_t end,
                       Matrix<float> w) const override;

  // What a code decodes to at a level above 0, in units of the 8-bit step.
  float position(Level level, uint8_t code) const;

  static std::unique_ptr<QuantizedLinear> rebuild(const Buffers& buffers, const Json& attributes);

 private:
  NestedLinear() = default;
  const uint8_t* plane(int bit, int64_t channel) const {
    return planes_.data() + (bit * shape_.in + channel) * plane_bytes();
  }
  int64_t plane_bytes() const { return (shape_.out + 7) / 8; }  // of one channel
  // Writes the planes of channels [begin, end).
  void pack_channels(Matrix<const uint8_t> codes, int64_t begin, int64_t end);
  void pack_tile(Matrix<const uint8_t> codes, int64_t row, int64_t channel, int64_t channels);
  // Scales and minima of rows [begin, end) of a channel.
  void load_grids(int64_t begin, int64_t end, int64_t channel, float* scale, float* minimum) const;
  void decode_positions(Level level, int64_t channel, int64_t first_row, int64_t count,
                        float* positions) const;

  NestedShape shape_;
  PlainVector<uint8_t> planes_;
  std::vector<uint16_t> scales_, minima_, table_;
};

}  // namespace grinqh
