#include "kernels/aligned_2_4_16/gemv_units.h"

#include <algorithm>
#include <cstring>

#include "core/parallel.h"
#include "kernels/aligned_2_4_16/fields.h"

namespace grinqh {

namespace {

using Order = Aligned2416Order;

size_t index(int64_t i) { return static_cast<size_t>(i); }

using Source = Aligned2416Fields;

void put16(uint8_t* to, uint16_t value) { std::memcpy(to, &value, sizeof value); }
void or16(uint8_t* to, int value) {
  uint16_t before;
  std::memcpy(&before, to, sizeof before);
  put16(to, static_cast<uint16_t>(before | value));
}

// One group of 16 outputs: group q of a step.
void pack_group(const Source& source, int64_t first_row, int64_t g, int q, int j, uint8_t* unit) {
  const bool wide = source.shape.wide[index(g)];
  const int bits = wide ? 4 : 2;
  for (int64_t row = first_row; row < std::min(first_row + Order::kOutputs, source.shape.out); ++row) {
    const int output = static_cast<int>(row - first_row), r = output / 8, lane = output % 8 * 4;
    const uint64_t codes = source.codes(row, g);
    for (int i = 0; i < Order::kGroup; ++i) {
      const int at = q / 2 * 512 + (lane + i / 4) * 16 + (q % 2 * 2 + r) * 4 + i % 4;
      unit[at] |= static_cast<uint8_t>((codes >> (bits * i) & ((1u << bits) - 1)) << (bits * j));
    }
    unit[Order::kZeros + (lane + q) * 2 + r] |= static_cast<uint8_t>(source.zero(row, g) << (bits * j));
    if (wide)
      put16(unit + Order::kScales + ((lane + q) * 2 + j) * 4 + r * 2, source.wide_scale(row, g));
    else
      or16(unit + Order::kScales + (lane + q) * 4 + r * 2, source.scale_code(row, g) << (4 * j));
  }
  if (wide) return;
  const int64_t block = first_row / Order::kOutputs;
  put16(unit + Order::kSecondScales + (q * 4 + j) * 2, source.second_scale(block, g));
  or16(unit + Order::kSecondZeros + q * 2, source.second_zero(block, g) << (4 * j));
}

// Units of the outliers of 16 outputs, all of one size: unit i of n has those from i / n to (i + 1) / n of
// each output's.
struct OutlierUnits {
  using Range = std::pair<int64_t, int64_t>;
  int count = 0, bytes = 0;
  int64_t outliers = 0;
  Range outputs[Order::kOutputs];

  // At least `least` of them; 0: as many as are worth it.
  OutlierUnits(const Source& source, int64_t first_row, int64_t begin, int64_t end, int least = 0) {
    for (int output = 0; output < Order::kOutputs; ++output) {
      outputs[output] = source.outliers_of(first_row + output, begin, end);
      outliers += outputs[output].second - outputs[output].first;
    }
    count = least > 0 ? least : count_for(outliers);
    for (; count > 0; ++count) {
      int64_t most = 0;
      for (int i = 0; i < count; ++i) {
        int64_t sum = 0;
        for (int output = 0; output < Order::kOutputs; ++output) {
          const Range range = share(output, i);
          sum += range.second - range.first;
        }
        most = std::max(most, sum);
      }
      bytes = static_cast<int>((Order::kEnds + 4 * most + Order::kAlignment - 1) / Order::kAlignment *
                               Order::kAlignment);
      if (bytes <= Order::kWideBytes) break;
    }
  }
  static int count_for(int64_t outliers) {
    return static_cast<int>((outliers + Order::kMostOutliers - 1) / Order::kMostOutliers);
  }
  Range share(int output, int unit) const {
    const auto [first, end] = outputs[output];
    return {first + (end - first) * unit / count, first + (end - first) * (unit + 1) / count};
  }
};

}  // namespace

Aligned2416Units::Aligned2416Units(const QuantizedLinear& layer, int part, int parts) {
  const Source source(layer);
  const Aligned2416Shape& shape = source.shape;
  // Whole units, so that parts take no more room than one.
  const auto first_of = [&](int64_t all, int64_t of_unit, int number) {
    const int64_t units_of_all = (all + of_unit - 1) / of_unit;
    return std::min(all, units_of_all * number / parts * of_unit);
  };
  const auto places = [&](int64_t all, int64_t of_unit) {
    return std::pair(first_of(all, of_unit, part), first_of(all, of_unit, part + 1));
  };
  const auto [first_narrow, end_narrow] = places(shape.narrow_groups(), Order::kNarrowGroups);
  const auto [first_wide, end_wide] = places(shape.wide_groups(), Order::kWideGroups);
  order.narrow_units =
      static_cast<int>((end_narrow - first_narrow + Order::kNarrowGroups - 1) / Order::kNarrowGroups);
  order.wide_units = static_cast<int>((end_wide - first_wide + Order::kWideGroups - 1) / Order::kWideGroups);
  groups.assign(index(order.slots()), -1);
  std::vector<int64_t> slot_of(index(shape.groups()), -1);
  int64_t narrow_columns[2] = {shape.in, 0};  // of the part's narrow groups: their outliers are its own
  const std::vector<int64_t> place_of = shape.places();
  for (int64_t g = 0; g < shape.groups(); ++g) {
    const bool wide = shape.wide[index(g)];
    const int64_t place = place_of[index(g)];
    if (place < (wide ? first_wide : first_narrow) || place >= (wide ? end_wide : end_narrow)) continue;
    const int64_t slot = wide ? order.narrow_slots() + place - first_wide : place - first_narrow;
    slot_of[index(g)] = slot;
    groups[index(slot)] = static_cast<int16_t>(g);
    if (wide) continue;
    narrow_columns[0] = std::min(narrow_columns[0], g * Order::kGroup);
    narrow_columns[1] = (g + 1) * Order::kGroup;
  }
  std::vector<OutlierUnits> outliers, padded;
  int64_t all = 0, bytes = 0;
  for (int64_t block = 0; block < shape.row_blocks(); ++block) {
    outliers.emplace_back(source, block * Order::kOutputs, narrow_columns[0], narrow_columns[1]);
    all += outliers.back().outliers;
    bytes += order.dense_bytes() + outliers.back().count * outliers.back().bytes;
  }
  // All alike, if that takes hardly more room.
  const int usual = OutlierUnits::count_for((all + shape.row_blocks() - 1) / shape.row_blocks());
  int most_units = usual, most_bytes = 0;
  for (int64_t block = 0; block < shape.row_blocks(); ++block) {
    padded.emplace_back(source, block * Order::kOutputs, narrow_columns[0], narrow_columns[1], usual);
    most_units = std::max(most_units, padded.back().count);
    most_bytes = std::max(most_bytes, padded.back().bytes);
  }
  even = most_units == usual &&
         shape.row_blocks() * (order.dense_bytes() + usual * most_bytes) <= bytes + bytes / 64;
  if (even) {
    for (OutlierUnits& each : padded) each.bytes = most_bytes;
    outliers = std::move(padded);
  }

  Begin begin{0, 0};
  for (const OutlierUnits& each : outliers) {
    begins.push_back(begin);
    begin.unit += static_cast<uint32_t>(order.dense_units() + each.count);
    begin.runs += static_cast<uint32_t>((order.dense_bytes() + each.count * each.bytes) / Order::kAlignment);
  }
  begins.push_back(begin);

  units.assign(size_t{Order::kAlignment} * begin.runs, 0);
  parallel_for(shape.row_blocks(), [&](int64_t block) {
    uint8_t* to = units.data() + size_t{Order::kAlignment} * begins[index(block)].runs;
    for (int slot = 0; slot < order.slots(); ++slot) {
      if (groups[index(slot)] < 0) continue;
      const Order::Place place = order.place_of(slot);
      const int unit = slot < order.narrow_slots()
                           ? slot / Order::kNarrowGroups
                           : order.narrow_units + (slot - order.narrow_slots()) / Order::kWideGroups;
      pack_group(source, block * Order::kOutputs, groups[index(slot)], place.q, place.step,
                 to + order.begin_of(unit));
    }
    const OutlierUnits& of_block = outliers[index(block)];
    for (int i = 0; i < of_block.count; ++i) {
      uint8_t* unit = to + order.dense_bytes() + i * of_block.bytes;
      uint8_t* pair = unit + Order::kEnds;
      for (int output = 0; output < Order::kOutputs; ++output) {
        const auto [first, end] = of_block.share(output, i);
        for (int64_t at = first; at < end; ++at) {
          const int64_t column = source.outlier_column(at);
          put16(pair, static_cast<uint16_t>(
                          Order::outlier_index(static_cast<int>(slot_of[index(column / Order::kGroup)]),
                                               static_cast<int>(column % Order::kGroup))));
          put16(pair + 2, source.outlier_value(at));
          pair += 4;
        }
        put16(unit + output * 2, static_cast<uint16_t>((pair - unit - Order::kEnds) / 4));
      }
    }
  });
}

}  // namespace grinqh
