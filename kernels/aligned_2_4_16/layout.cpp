#include "kernels/aligned_2_4_16/layout.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "core/dtype.h"
#include "core/error.h"

namespace grinqh {

namespace {

constexpr int64_t kGroup = Aligned2416Shape::kGroup;
constexpr int64_t kBlockRows = Aligned2416Shape::kBlockRows;

size_t index(int64_t i) { return static_cast<size_t>(i); }

// Where the scale code of one of three groups begins in their word.
int scale_shift(int64_t place) { return 6 + 3 * static_cast<int>(place % 3); }

template <class T>
std::vector<T> values_of(const Buffers& buffers, const std::string& name, int64_t count) {
  const auto it = buffers.find(name);
  if (it == buffers.end() || it->second.size() != index(count) * sizeof(T))
    bad_input("aligned_2_4_16 layer: buffer '{}' is missing or not of {} bytes", name,
              index(count) * sizeof(T));
  std::vector<T> values(index(count));
  if (count > 0) std::memcpy(values.data(), it->second.data(), index(count) * sizeof(T));
  return values;
}

}  // namespace

int64_t Aligned2416Shape::wide_groups() const {
  return std::accumulate(wide.begin(), wide.end(), int64_t{0});
}

int64_t Aligned2416Shape::wide_inputs() const {
  int64_t sum = 0;
  for (int64_t g = 0; g < groups(); ++g) sum += wide[index(g)] ? width_of(g) : 0;
  return sum;
}

std::vector<int64_t> Aligned2416Shape::places() const {
  std::vector<int64_t> result;
  int64_t next[2] = {0, 0};
  for (const uint8_t each : wide) result.push_back(next[each]++);
  return result;
}

Aligned2416Parts::Aligned2416Parts(const Aligned2416Shape& shape)
    : codes(shape.out, shape.in),
      zeros(shape.out, shape.groups()),
      wide_scales(shape.out, shape.groups()),
      scale_codes(shape.out, shape.groups()),
      second_scales(shape.row_blocks(), shape.groups()),
      second_zeros(shape.row_blocks(), shape.groups()) {}

Aligned2416Linear::Aligned2416Linear(Aligned2416Shape shape, const Aligned2416Parts& parts)
    : shape_(std::move(shape)),
      places_(shape_.places()),
      wide_(index((shape_.groups() + 7) / 8)),
      wide_zeros_(index(shape_.wide_groups() * wide_zero_bytes())),
      codes_(index(shape_.out * shape_.groups())),
      split_(index(shape_.out * shape_.wide_groups())),
      first_(index(shape_.out * first_words())),
      second_scales_(index(shape_.row_blocks() * shape_.narrow_groups())),
      second_zeros_(index(shape_.row_blocks() * second_words())),
      wide_scales_(index(shape_.out * shape_.wide_groups())),
      outlier_counts_(index(shape_.out)) {
  check(shape_.in <= 1 << 16, "aligned_2_4_16: a column has 16 bits");
  check(std::ssize(shape_.wide) == shape_.groups() && parts.codes.rows() == shape_.out &&
            parts.codes.cols() == shape_.in,
        "aligned_2_4_16: sizes");
  for (int64_t g = 0; g < shape_.groups(); ++g)
    wide_[index(g / 8)] |= static_cast<uint8_t>(shape_.wide[index(g)] << (g % 8));
  for (int64_t row = 0; row < shape_.out; ++row) pack_row(parts, row);
  for (int64_t block = 0; block < shape_.row_blocks(); ++block) pack_block(parts, block);
  int64_t last = -1;
  for (const Outlier& outlier : parts.outliers) {
    const int64_t at = outlier.row * shape_.in + outlier.column;
    check(at > last && !shape_.wide[index(outlier.column / kGroup)],
          "aligned_2_4_16: outliers in order, in narrow groups");
    last = at;
    ++outlier_counts_[index(outlier.row)];
    outlier_columns_.push_back(static_cast<uint16_t>(outlier.column));
    outlier_values_.push_back(outlier.value);
  }
}

void Aligned2416Linear::pack_row(const Aligned2416Parts& parts, int64_t row) {
  const uint8_t* codes = parts.codes.row(row);
  for (int64_t g = 0; g < shape_.groups(); ++g) {
    const int64_t place = places_[index(g)], count = shape_.width_of(g);
    const bool wide = shape_.wide[index(g)];
    const int bits = wide ? 4 : 2;
    uint64_t word = 0;
    for (int64_t i = 0; i < count; ++i) word |= static_cast<uint64_t>(codes[g * kGroup + i]) << (bits * i);
    codes_[index(row * shape_.groups() + g)] = static_cast<uint32_t>(word);
    const uint8_t zero = parts.zeros.row(row)[g];
    if (wide) {
      split_[index(row * shape_.wide_groups() + place)] = static_cast<uint32_t>(word >> 32);
      wide_scales_[index(row * shape_.wide_groups() + place)] = parts.wide_scales.row(row)[g];
      wide_zeros_[index(place * wide_zero_bytes() + row / 2)] |=
          static_cast<uint8_t>(zero << (4 * (row % 2)));
    } else {
      const uint8_t code = parts.scale_codes.row(row)[g];
      check(zero < 4 && code < 1 << Aligned2416Shape::scale_bits(place), "aligned_2_4_16: first-order codes");
      first_[index(row * first_words() + place / 3)] |=
          static_cast<uint16_t>(zero << (2 * (place % 3)) | code << scale_shift(place));
    }
  }
}

void Aligned2416Linear::pack_block(const Aligned2416Parts& parts, int64_t block) {
  for (int64_t g = 0; g < shape_.groups(); ++g) {
    if (shape_.wide[index(g)]) continue;
    const int64_t place = places_[index(g)];
    const uint8_t zero = parts.second_zeros.row(block)[g];
    check(zero < 1 << Aligned2416Shape::scale_bits(place), "aligned_2_4_16: second zero");
    second_scales_[index(block * shape_.narrow_groups() + place)] = parts.second_scales.row(block)[g];
    second_zeros_[index(block * second_words() + place / 4)] |=
        static_cast<uint16_t>(zero << (4 * (place % 4)));
  }
}

std::vector<NamedBuffer> Aligned2416Linear::buffers() const {
  const auto bytes = [](const auto& values) { return std::as_bytes(std::span(values)); };
  return {{"wide", Role::index, bytes(wide_)},
          {"codes", Role::codes, bytes(codes_)},
          {"split", Role::codes, bytes(split_)},
          {"first", Role::scales, bytes(first_)},
          {"second_scales", Role::scales, bytes(second_scales_)},
          {"second_zeros", Role::zeros, bytes(second_zeros_)},
          {"wide_scales", Role::scales, bytes(wide_scales_)},
          {"wide_zeros", Role::zeros, bytes(wide_zeros_)},
          {"outlier_counts", Role::index, bytes(outlier_counts_)},
          {"outlier_columns", Role::outliers, bytes(outlier_columns_)},
          {"outlier_values", Role::outliers, bytes(outlier_values_)}};
}

Json Aligned2416Linear::attributes() const {
  return {{"out", shape_.out},
          {"in", shape_.in},
          {"widths", {2, 4}},
          {"wide_groups", shape_.wide_groups()},
          {"outliers", outlier_values_.size()}};
}

std::unique_ptr<QuantizedLinear> Aligned2416Linear::rebuild(const Buffers& buffers, const Json& attributes) {
  auto layer = std::unique_ptr<Aligned2416Linear>(new Aligned2416Linear());
  Aligned2416Shape& shape = layer->shape_;
  shape.out = attributes.at("out");
  shape.in = attributes.at("in");
  layer->wide_ = values_of<uint8_t>(buffers, "wide", (shape.groups() + 7) / 8);
  for (int64_t g = 0; g < shape.groups(); ++g)
    shape.wide.push_back(layer->wide_[index(g / 8)] >> (g % 8) & 1);
  if (shape.wide_groups() != attributes.at("wide_groups").get<int64_t>())
    bad_input("aligned_2_4_16 layer: buffer 'wide' marks {} groups, the layer has {}", shape.wide_groups(),
              attributes.at("wide_groups").get<int64_t>());
  layer->places_ = shape.places();
  layer->codes_ = values_of<uint32_t>(buffers, "codes", shape.out * shape.groups());
  layer->split_ = values_of<uint32_t>(buffers, "split", shape.out * shape.wide_groups());
  layer->first_ = values_of<uint16_t>(buffers, "first", shape.out * layer->first_words());
  layer->second_scales_ =
      values_of<uint16_t>(buffers, "second_scales", shape.row_blocks() * shape.narrow_groups());
  layer->second_zeros_ =
      values_of<uint16_t>(buffers, "second_zeros", shape.row_blocks() * layer->second_words());
  layer->wide_scales_ = values_of<uint16_t>(buffers, "wide_scales", shape.out * shape.wide_groups());
  layer->wide_zeros_ =
      values_of<uint8_t>(buffers, "wide_zeros", shape.wide_groups() * layer->wide_zero_bytes());
  const int64_t outliers = attributes.at("outliers");
  layer->outlier_counts_ = values_of<uint16_t>(buffers, "outlier_counts", shape.out);
  layer->outlier_columns_ = values_of<uint16_t>(buffers, "outlier_columns", outliers);
  layer->outlier_values_ = values_of<uint16_t>(buffers, "outlier_values", outliers);
  const auto& counts = layer->outlier_counts_;
  if (std::accumulate(counts.begin(), counts.end(), int64_t{0}) != outliers ||
      std::ranges::any_of(layer->outlier_columns_, [&](uint16_t column) { return column >= shape.in; }))
    bad_input("aligned_2_4_16 layer: its outliers do not fit its {} rows and {} columns", shape.out,
              shape.in);
  return layer;
}

BitCount Aligned2416Linear::read_bits(const LevelCounts&) const {
  BitCount bits = stored_bits();  // there is one level, and it reads everything
  const int64_t codes = shape_.out * (2 * shape_.in + 2 * shape_.wide_inputs());
  bits[Role::padding] += bits[Role::codes] - codes;
  bits[Role::codes] = codes;
  return bits;
}

float Aligned2416Linear::narrow_scale(int64_t row, int64_t place) const {
  const int64_t block = row / kBlockRows;
  const int word = first_[index(row * first_words() + place / 3)];
  const int code = word >> scale_shift(place) & ((1 << Aligned2416Shape::scale_bits(place)) - 1);
  const int zero = second_zeros_[index(block * second_words() + place / 4)] >> (4 * (place % 4)) & 15;
  const uint16_t second = second_scales_[index(block * shape_.narrow_groups() + place)];
  return from_half(second) * static_cast<float>(code + zero);
}

int Aligned2416Linear::zero_of(int64_t row, int64_t group, int64_t place) const {
  if (shape_.wide[index(group)])
    return wide_zeros_[index(place * wide_zero_bytes() + row / 2)] >> (4 * (row % 2)) & 15;
  return first_[index(row * first_words() + place / 3)] >> (2 * (place % 3)) & 3;
}

void Aligned2416Linear::dequantize_rows(std::span<const Level>, int64_t begin, int64_t end,
                                        Matrix<float> w) const {
  int64_t outlier = std::accumulate(outlier_counts_.begin(), outlier_counts_.begin() + begin, int64_t{0});
  for (int64_t row = begin; row < end; ++row) {
    float* to = w.row(row - begin);
    for (int64_t g = 0; g < shape_.groups(); ++g) {
      const int64_t place = places_[index(g)], count = shape_.width_of(g);
      uint64_t word = codes_[index(row * shape_.groups() + g)];
      const int zero = zero_of(row, g, place);
      float scale;
      int bits = 2;
      if (shape_.wide[index(g)]) {
        const int64_t at = row * shape_.wide_groups() + place;
        word |= static_cast<uint64_t>(split_[index(at)]) << 32;
        scale = from_half(wide_scales_[index(at)]);
        bits = 4;
      } else {
        scale = narrow_scale(row, place);
      }
      const int mask = (1 << bits) - 1;
      for (int64_t i = 0; i < count; ++i, word >>= bits)
        to[g * kGroup + i] = scale * static_cast<float>((static_cast<int>(word) & mask) - zero);
    }
    for (int64_t last = outlier + outlier_counts_[index(row)]; outlier < last; ++outlier)
      to[outlier_columns_[index(outlier)]] += from_half(outlier_values_[index(outlier)]);
  }
}

namespace {
const RegisterLayout layout{"aligned_2_4_16",
                            "groups of 16 inputs of 2 or 4 bits in 32-bit slots, float16 outliers",
                            Aligned2416Linear::rebuild};
}

}  // namespace grinqh
