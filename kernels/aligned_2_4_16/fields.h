// Codes, zero points, scales and outliers one by one, as a layer's buffers hold them: what kernels repack
// from.
#pragma once

#include <algorithm>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "kernels/aligned_2_4_16/layout.h"

namespace grinqh {

// Of a layer that must outlive it.
class Aligned2416Fields {
 public:
  explicit Aligned2416Fields(const QuantizedLinear& layer) : shape{layer.out(), layer.in(), {}} {
    for (const NamedBuffer& buffer : layer.buffers()) {
      const auto is = [&](std::string_view name, const auto*& data) {
        if (buffer.name == name)
          data = reinterpret_cast<std::remove_reference_t<decltype(data)>>(buffer.bytes.data());
      };
      is("wide", wide_), is("codes", codes_), is("split", split_), is("first", first_);
      is("second_scales", second_scales_), is("second_zeros", second_zeros_);
      is("wide_scales", wide_scales_), is("wide_zeros", wide_zeros_);
      is("outlier_counts", counts_), is("outlier_columns", columns_), is("outlier_values", values_);
    }
    for (int64_t g = 0; g < shape.groups(); ++g) shape.wide.push_back(wide_[g / 8] >> (g % 8) & 1);
    places_ = shape.places();
    narrow_ = shape.narrow_groups();
    wide_groups_ = shape.wide_groups();
    outliers_.push_back(0);
    for (int64_t row = 0; row < shape.out; ++row) outliers_.push_back(outliers_.back() + counts_[row]);
  }

  uint64_t codes(int64_t row, int64_t g) const {
    const uint64_t first = codes_[row * shape.groups() + g];
    if (!shape.wide[index(g)]) return first;
    return first | uint64_t{split_[row * wide_groups_ + places_[index(g)]]} << 32;
  }
  int zero(int64_t row, int64_t g) const {
    const int64_t place = places_[index(g)];
    if (shape.wide[index(g)])
      return wide_zeros_[place * ((shape.out + 1) / 2) + row / 2] >> (4 * (row % 2)) & 15;
    return first(row, place) >> (2 * (place % 3)) & 3;
  }
  int scale_code(int64_t row, int64_t g) const {
    const int64_t place = places_[index(g)];
    return first(row, place) >> (6 + 3 * (place % 3)) & ((1 << Aligned2416Shape::scale_bits(place)) - 1);
  }
  uint16_t wide_scale(int64_t row, int64_t g) const {
    return wide_scales_[row * wide_groups_ + places_[index(g)]];
  }
  uint16_t second_scale(int64_t block, int64_t g) const {
    return second_scales_[block * narrow_ + places_[index(g)]];
  }
  int second_zero(int64_t block, int64_t g) const {
    const int64_t place = places_[index(g)];
    return second_zeros_[block * ((narrow_ + 3) / 4) + place / 4] >> (4 * (place % 4)) & 15;
  }
  // A row's outliers between two columns, each: rows beyond the last have none.
  std::pair<int64_t, int64_t> outliers_of(int64_t row, int64_t begin, int64_t end) const {
    if (row >= shape.out) return {0, 0};
    const uint16_t *first = columns_ + outliers_[index(row)], *last = columns_ + outliers_[index(row + 1)];
    return {std::lower_bound(first, last, begin) - columns_, std::lower_bound(first, last, end) - columns_};
  }
  int64_t outlier_column(int64_t at) const { return columns_[at]; }
  uint16_t outlier_value(int64_t at) const { return values_[at]; }

  Aligned2416Shape shape;

 private:
  static size_t index(int64_t i) { return static_cast<size_t>(i); }
  int first(int64_t row, int64_t place) const { return first_[row * ((narrow_ + 2) / 3) + place / 3]; }

  std::vector<int64_t> places_, outliers_;
  int64_t narrow_ = 0, wide_groups_ = 0;
  const uint8_t *wide_ = nullptr, *wide_zeros_ = nullptr;
  const uint32_t *codes_ = nullptr, *split_ = nullptr;
  const uint16_t *first_ = nullptr, *second_scales_ = nullptr, *second_zeros_ = nullptr,
                 *wide_scales_ = nullptr, *counts_ = nullptr, *columns_ = nullptr, *values_ = nullptr;
};

}  // namespace grinqh
