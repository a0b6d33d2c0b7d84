#include "kernels/lut_planes/layout.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "core/dtype.h"
#include "core/error.h"
#include "core/parallel.h"
#include "quant/bit_transpose.h"

namespace grinqh {

namespace {

template <class Values>
std::span<const std::byte> bytes_of(const Values& values) {
  return std::as_bytes(std::span(values));
}

template <class T, class Values = std::vector<T>>
Values values_of(const Buffers& buffers, const std::string& name) {
  const auto it = buffers.find(name);
  if (it == buffers.end()) bad_input("lut_planes layer: buffer '{}' is missing", name);
  if (it->second.size() % sizeof(T) != 0)
    bad_input("lut_planes layer: buffer '{}' does not fit: {} bytes", name, it->second.size());
  Values values(it->second.size() / sizeof(T));
  std::memcpy(values.data(), it->second.data(), it->second.size());
  return values;
}

}  // namespace

int64_t LutPlanesShape::table_offset(Level level) const {
  int64_t offset = 0;
  for (const Level each : levels)
    if (each < level) offset += table_entries(each);
  return offset;
}

LutPlanesLinear::LutPlanesLinear(const std::string& layer, LutPlanesShape shape, Matrix<const uint8_t> codes,
                                 std::vector<uint16_t> tables, const Outliers& outliers,
                                 Matrix<const float> weight)
    : shape_(std::move(shape)),
      planes_(static_cast<size_t>(shape_.planes() * shape_.out * shape_.row_words())),
      tables_(std::move(tables)) {
  check(codes.rows == shape_.out && codes.cols == shape_.in, "lut_planes: codes are [out, in]");
  parallel_for(shape_.out, [&](int64_t row) { pack_row(codes.row_span(row), row); });
  if (!outliers.none()) {
    outlier_rows_ = outliers.row_begin;
    for (int64_t row = 0; row < shape_.out; ++row)
      for (const uint32_t column : outliers.of_row(row)) {
        const float value = weight(row, column);
        outlier_values_.push_back(to_half(value));
        if (!std::isfinite(from_half(outlier_values_.back())))
          bad_input("{}: an outlier of {} does not fit into float16", layer, value);
        const auto* bytes = reinterpret_cast<const uint8_t*>(&column);
        outlier_columns_.insert(outlier_columns_.end(), bytes, bytes + column_bytes());  // little-endian
      }
  }
  check(buffers_fit(), "lut_planes: buffer sizes");
}

std::vector<NamedBuffer> LutPlanesLinear::buffers() const {
  std::vector<NamedBuffer> all{{"planes", Role::codes, bytes_of(planes_)},
                               {"tables", Role::codebook, bytes_of(tables_)}};
  if (!outlier_rows_.empty()) {
    all.push_back({"outlier_rows", Role::index, bytes_of(outlier_rows_)});
    all.push_back({"outlier_columns", Role::index, bytes_of(outlier_columns_)});
    all.push_back({"outlier_values", Role::outliers, bytes_of(outlier_values_)});
  }
  return all;
}

Json LutPlanesLinear::attributes() const {
  return {{"out", shape_.out},
          {"in", shape_.in},
          {"levels", std::vector<int>(shape_.levels.begin(), shape_.levels.end())},
          {"outliers", !outlier_rows_.empty()}};
}

std::unique_ptr<QuantizedLinear> LutPlanesLinear::rebuild(const Buffers& buffers, const Json& attributes) {
  auto layer = std::unique_ptr<LutPlanesLinear>(new LutPlanesLinear());
  layer->shape_.out = attributes.at("out");
  layer->shape_.in = attributes.at("in");
  for (const int level : attributes.at("levels")) layer->shape_.levels.push_back(static_cast<Level>(level));
  layer->planes_ = values_of<uint32_t, PlainVector<uint32_t>>(buffers, "planes");
  layer->tables_ = values_of<uint16_t>(buffers, "tables");
  if (attributes.at("outliers")) {
    layer->outlier_rows_ = values_of<uint32_t>(buffers, "outlier_rows");
    layer->outlier_columns_ = values_of<uint8_t>(buffers, "outlier_columns");
    layer->outlier_values_ = values_of<uint16_t>(buffers, "outlier_values");
  }
  if (!layer->buffers_fit())
    bad_input("lut_planes layer: buffers do not fit the attributes {}", attributes.dump());
  return layer;
}

bool LutPlanesLinear::buffers_fit() const {
  const LutPlanesShape& s = shape_;
  if (s.levels.empty() || !std::ranges::is_sorted(s.levels, std::less_equal<>()) || s.planes() < 1 ||
      s.planes() > 8)
    return false;
  if (planes_.size() != static_cast<size_t>(s.planes() * s.out * s.row_words()) ||
      tables_.size() != static_cast<size_t>(s.table_offset(kFullLevel)))
    return false;
  if (outlier_rows_.empty()) return true;
  const size_t outliers = outlier_values_.size();
  if (outlier_rows_.size() != static_cast<size_t>(s.out) + 1 || outlier_rows_.front() != 0 ||
      outlier_rows_.back() != outliers || !std::ranges::is_sorted(outlier_rows_) ||
      outlier_columns_.size() != outliers * column_bytes())
    return false;
  for (size_t k = 0; k < outliers; ++k)
    if (outlier_column(k) >= static_cast<uint64_t>(s.in)) return false;
  return true;
}

uint32_t LutPlanesLinear::outlier_column(size_t outlier) const {
  uint32_t column = 0;
  std::memcpy(&column, outlier_columns_.data() + outlier * column_bytes(), column_bytes());
  return column;
}

BitCount LutPlanesLinear::read_bits(const LevelCounts& counts) const {
  BitCount bits;
  int planes = 0;
  for (const Level level : shape_.levels)
    if (level > 0 && counts.channels[level] > 0) {
      planes = level;
      bits[Role::codebook] += shape_.table_entries(level) * 16;
    }
  if (planes == 0) return bits;
  bits[Role::codes] = planes * shape_.out * shape_.in;
  bits[Role::padding] = planes * shape_.out * (shape_.row_words() * 32 - shape_.in);
  bits[Role::index] = static_cast<int64_t>(bytes_of(outlier_rows_).size() + outlier_columns_.size()) * 8;
  bits[Role::outliers] = static_cast<int64_t>(outlier_values_.size()) * 16;
  return bits;
}

void LutPlanesLinear::pack_row(std::span<const uint8_t> codes, int64_t row) {
  for (int64_t word = 0; word < shape_.row_words(); ++word) {
    std::array<uint8_t, 32> here{};
    const std::span<const uint8_t> rest = codes.subspan(static_cast<size_t>(word * 32));
    std::copy_n(rest.data(), std::min(rest.size(), here.size()), here.data());
    std::array<uint64_t, 4> eights;  // byte b: bit b of eight codes
    std::memcpy(eights.data(), here.data(), sizeof(here));
    for (uint64_t& eight : eights) eight = transpose_bits(eight);
    for (int bit = 0; bit < shape_.planes(); ++bit) {
      uint32_t bits = 0;
      for (size_t byte = 0; byte < 4; ++byte)
        bits |= static_cast<uint32_t>(eights[byte] >> (8 * (shape_.planes() - 1 - bit)) & 255u) << (8 * byte);
      planes_[static_cast<size_t>((bit * shape_.out + row) * shape_.row_words() + word)] = bits;
    }
  }
}

// The `planes`-bit prefixes of a row's codes; codes: [row_words() * 32].
void LutPlanesLinear::decode_row(int64_t row, int planes, uint8_t* codes) const {
  for (int64_t word = 0; word < shape_.row_words(); ++word) {
    std::array<uint64_t, 4> eights{};  // bits of eight inputs each, one byte a plane
    for (int bit = 0; bit < planes; ++bit) {
      const uint32_t bits =
          planes_[static_cast<size_t>((bit * shape_.out + row) * shape_.row_words() + word)];
      for (int byte = 0; byte < 4; ++byte)
        eights[static_cast<size_t>(byte)] |= static_cast<uint64_t>((bits >> (8 * byte)) & 255u)
                                             << (8 * (planes - 1 - bit));
    }
    for (const uint64_t eight : eights) {
      const uint64_t transposed = transpose_bits(eight);
      std::memcpy(codes, &transposed, 8);
      codes += 8;
    }
  }
}

void LutPlanesLinear::dequantize_rows(std::span<const Level> levels, int64_t begin, int64_t end,
                                      Matrix<float> w) const {
  const int planes = levels.empty() ? 0 : *std::ranges::max_element(levels);
  std::vector<uint8_t> codes(static_cast<size_t>(shape_.row_words() * 32));
  std::array<std::vector<float>, 9> tables;  // by level, of the row at hand; level 0: zero
  tables[0] = {0.0f};
  for (const Level level : levels) tables[level].resize(size_t{1} << level);
  for (int64_t row = begin; row < end; ++row) {
    for (const Level level : shape_.levels) {
      if (level == 0 || tables[level].empty()) continue;
      const uint16_t* from = tables_.data() + shape_.table_offset(level) + (row << level);
      for (float& entry : tables[level]) entry = from_half(*from++);
    }
    decode_row(row, planes, codes.data());
    float* to = w.row(row - begin);
    for (size_t i = 0; i < levels.size(); ++i) to[i] = tables[levels[i]][codes[i] >> (planes - levels[i])];
    if (outlier_rows_.empty()) continue;
    for (size_t k = outlier_rows_[static_cast<size_t>(row)]; k < outlier_rows_[static_cast<size_t>(row) + 1];
         ++k)
      if (const uint32_t column = outlier_column(k); levels[column] > 0)
        to[column] = from_half(outlier_values_[k]);
  }
}

std::unique_ptr<LutPlanesLinear> make_lut_planes(const std::string& layer, Matrix<const float> weight,
                                                 const NestedClusters& clusters, const Outliers& outliers) {
  LutPlanesShape shape{weight.rows, weight.cols, {}};
  std::vector<uint16_t> tables;
  for (size_t l = 0; l < clusters.tables.size(); ++l) {
    shape.levels.push_back(static_cast<Level>(clusters.seed + static_cast<int>(l)));
    tables.insert(tables.end(), clusters.tables[l].data(),
                  clusters.tables[l].data() + clusters.tables[l].size());
  }
  return std::make_unique<LutPlanesLinear>(layer, std::move(shape), clusters.codes, std::move(tables),
                                           outliers, weight);
}

namespace {
const RegisterLayout layout{"lut_planes",
                            "bit planes, row-major, and a table a row and level: prefixes are codes",
                            LutPlanesLinear::rebuild};
}

}  // namespace grinqh
