// Layout "lut_planes": codes of up to 8 bits as bit planes, most significant first, decoded through tables of
// a row's own, one table a level: any stored level b reads the first b planes and its own table.
//
//   planes           [bit][out][ceil(in / 32)] words of 32 inputs; input i is bit i % 32 of word i / 32
//   tables           float16; for each level b > 0, ascending: [out][2^b]
//   outlier_rows     optional, uint32 [out + 1]: where the outliers of a row begin
//   outlier_columns  uint16, or uint32 if in > 65536: [outliers], ascending within a row
//   outlier_values   float16 [outliers]
//
// A weight decodes to entry t of its row's table of level b, t the b-bit prefix of its code. An outlier's
// value stands in place of what its code decodes to, at every level but 0 (so it need not be stored once a
// level).
//
// Planes run along the inputs, so that single channels cannot be left out: a token whose channels have
// several levels reads every plane that one of them reaches, the table of each level that occurs, and all
// outliers. (Layout of the words and the tables: Any-Precision LLM, arXiv 2402.10517, without its order
// within words.)
#pragma once

#include "core/matrix.h"
#include "core/plain_vector.h"
#include "quant/nested_clusters.h"
#include "quant/outliers.h"
#include "quant/quantized_linear.h"

namespace grinqh {

struct LutPlanesShape {
  int64_t out = 0;
  int64_t in = 0;
  std::vector<Level> levels;  // ascending, within 0..8; planes beyond the last are not stored

  int planes() const { return levels.back(); }
  int64_t row_words() const { return (in + 31) / 32; }
  int64_t table_entries(Level level) const { return level == 0 ? 0 : out << level; }
  // First entry of a level's tables; of kFullLevel: of all.
  int64_t table_offset(Level level) const;
};

class LutPlanesLinear final : public QuantizedLinear {
 public:
  // codes: [out, in], of shape.planes() bits. tables: float16, as the layout has them. Values of outliers are
  // taken from `weight` [out, in]; BadInput naming the layer if one does not fit into float16.
  LutPlanesLinear(const std::string& layer, LutPlanesShape shape, Matrix<const uint8_t> codes,
                  std::vector<uint16_t> tables, const Outliers& outliers, Matrix<const float> weight);

  int64_t in() const override { return shape_.in; }
  int64_t out() const override { return shape_.out; }
  std::string_view layout() const override { return "lut_planes"; }
  std::span<const Level> levels() const override { return shape_.levels; }
  std::vector<NamedBuffer> buffers() const override;
  Json attributes() const override;
  BitCount read_bits(const LevelCounts& counts) const override;
  void dequantize_rows(std::span<const Level> levels, int64_t begin, int64_t end,
                       Matrix<float> w) const override;

  static std::unique_ptr<QuantizedLinear> rebuild(const Buffers& buffers, const Json& attributes);

 private:
  LutPlanesLinear() = default;
  size_t column_bytes() const { return shape_.in > 65536 ? 4 : 2; }
  uint32_t outlier_column(size_t outlier) const;
  bool buffers_fit() const;
  void pack_row(std::span<const uint8_t> codes, int64_t row);
  void decode_row(int64_t row, int planes, uint8_t* codes) const;

  LutPlanesShape shape_;
  PlainVector<uint32_t> planes_;
  std::vector<uint16_t> tables_;
  std::vector<uint32_t> outlier_rows_;  // empty: no outliers
  std::vector<uint8_t> outlier_columns_;
  std::vector<uint16_t> outlier_values_;
};

// A layer whose levels are those of the clusters.
std::unique_ptr<LutPlanesLinear> make_lut_planes(const std::string& layer, Matrix<const float> weight,
                                                 const NestedClusters& clusters, const Outliers& outliers);

}  // namespace grinqh
