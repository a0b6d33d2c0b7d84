#include "quant/nested_fit.h"

#include <algorithm>
#include <utility>

#include "core/accelerator.h"
#include "core/error.h"
#include "core/half.h"
#include "core/parallel.h"
#include "quant/rounding_rules.h"

namespace grinqh {

namespace {

constexpr int64_t kTaskRows = 64;  // whose sums are added in their order, whatever the threads

// Grids that the channels [begin, end) of a row meet, decoded. Rows that follow each other mostly share them.
class RowGrids {
 public:
  RowGrids(const NestedGrids& grids, int64_t begin, int64_t end)
      : grids_(grids),
        begin_(begin),
        end_(end),
        scale_(static_cast<size_t>(end - begin)),
        minimum_(static_cast<size_t>(end - begin)) {}

  void move_to(int64_t row) {
    const int64_t band = row / grids_.grid_rows, columns = grids_.grid_columns;
    if (std::exchange(band_, band) == band) return;
    for (int64_t first = begin_; first < end_;) {
      const int64_t next = std::min((first / columns + 1) * columns, end_);
      const auto grid = static_cast<size_t>(grids_.grid_of(row, first));
      std::fill_n(scale_.begin() + (first - begin_), next - first, from_half(grids_.scales[grid]));
      std::fill_n(minimum_.begin() + (first - begin_), next - first, from_half(grids_.minima[grid]));
      first = next;
    }
  }
  // Of the channel that is so far behind `begin`.
  float scale(size_t channel) const { return scale_[channel]; }
  float minimum(size_t channel) const { return minimum_[channel]; }

 private:
  const NestedGrids& grids_;
  int64_t begin_, end_, band_ = -1;
  std::vector<float> scale_, minimum_;
};

void cells_of(std::span<const float> row, const RowGrids& grids, uint8_t* codes) {
  for (size_t i = 0; i < row.size(); ++i) codes[i] = nested_code(row[i], grids.scale(i), grids.minimum(i));
}

void add_row(std::span<const float> positions, std::span<const uint8_t> codes, const RowGrids& grids,
             PrefixSums& sums) {
  for (size_t i = 0; i < positions.size(); ++i) {
    const double scale = grids.scale(i);
    const double each = scale * scale * (sums.counts.empty() ? 1.0 : static_cast<double>(sums.counts[i]));
    const auto prefix = static_cast<size_t>(codes[i] >> (8 - sums.level));
    sums.weight[prefix] += each;
    sums.position[prefix] += each * static_cast<double>(positions[i]);
  }
}

void add(const std::vector<double>& from, std::vector<double>& to) {
  for (size_t i = 0; i < from.size(); ++i) to[i] += from[i];
}

}  // namespace

void round_to_cells(Matrix<const float> weight, const NestedGrids& grids, Matrix<uint8_t> codes) {
  parallel_for((weight.rows + kTaskRows - 1) / kTaskRows, [&](int64_t task) {
    RowGrids here(grids, 0, weight.cols);
    for (int64_t row = task * kTaskRows; row < std::min((task + 1) * kTaskRows, weight.rows); ++row) {
      here.move_to(row);
      cells_of(weight.row_span(row), here, codes.row(row));
    }
  });
}

void sum_prefixes(Matrix<const float> weight, const NestedGrids& grids, std::span<PrefixSums> sums) {
  if (sums.empty()) return;
  if (const auto installed = accelerator()) return installed->sum_prefixes({weight, grids, sums});
  const int64_t tasks = (weight.rows + kTaskRows - 1) / kTaskRows;
  std::vector<std::vector<PrefixSums>> parts(static_cast<size_t>(tasks), {sums.begin(), sums.end()});
  parallel_for(tasks, [&](int64_t task) {
    std::vector<PrefixSums>& part = parts[static_cast<size_t>(task)];
    for (PrefixSums& each : part) {
      std::ranges::fill(each.weight, 0.0);
      std::ranges::fill(each.position, 0.0);
    }
    RowGrids here(grids, 0, weight.cols);
    std::vector<float> positions(static_cast<size_t>(weight.cols));
    std::vector<uint8_t> codes(positions.size());
    for (int64_t row = task * kTaskRows; row < std::min((task + 1) * kTaskRows, weight.rows); ++row) {
      here.move_to(row);
      for (size_t i = 0; i < positions.size(); ++i)
        positions[i] = nested_position(weight.row(row)[i], here.scale(i), here.minimum(i));
      cells_of(weight.row_span(row), here, codes.data());
      for (PrefixSums& each : part) add_row(positions, codes, here, each);
    }
  });
  for (const std::vector<PrefixSums>& part : parts)
    for (size_t k = 0; k < sums.size(); ++k) {
      add(part[k].weight, sums[k].weight);
      add(part[k].position, sums[k].position);
    }
}

std::vector<PrefixSums> table_sums(int levels, std::span<const Level> served, Matrix<const float> energies) {
  std::vector<std::span<const float>> counts(static_cast<size_t>(levels + 1));
  for (size_t k = 0; k < served.size() && !energies.empty(); ++k)
    if (served[k] <= levels) counts[served[k]] = energies.row_span(static_cast<int64_t>(k));
  std::vector<PrefixSums> sums;
  bool alike = false;  // whether a level that counts all channels alike is there
  for (int level = levels; level > 0; --level) {
    const std::span<const float> here = counts[static_cast<size_t>(level)];
    if (here.empty() && std::exchange(alike, true)) continue;
    const size_t prefixes = size_t{1} << level;
    sums.push_back(
        {static_cast<Level>(level), here, std::vector<double>(prefixes), std::vector<double>(prefixes)});
  }
  return sums;
}

std::vector<uint16_t> fitted_table(int levels, std::span<const PrefixSums> sums) {
  std::vector<uint16_t> table;
  for (int level = 1; level <= levels; ++level) {
    auto found = std::ranges::find(sums, static_cast<Level>(level), &PrefixSums::level);
    if (found == sums.end())
      found = std::ranges::find_if(sums, [](const PrefixSums& each) { return each.counts.empty(); });
    check(found != sums.end() && found->level >= level, "sums for every level of a table");
    const size_t finer = size_t{1} << (found->level - level);  // prefixes that this level takes together
    for (size_t prefix = 0; prefix < size_t{1} << level; ++prefix) {
      double weight = 0, position = 0;
      for (size_t i = prefix * finer; i < (prefix + 1) * finer; ++i) {
        weight += found->weight[i];
        position += found->position[i];
      }
      const double middle = (static_cast<double>(prefix) + 0.5) * (kNestedCodes >> level);
      table.push_back(to_half(static_cast<float>(weight > 0 ? position / weight : middle)));
    }
  }
  return table;
}

MatrixBuffer<float> nested_positions(std::span<const Level> levels, std::span<const uint16_t> table) {
  auto positions = MatrixBuffer<float>::zeroed(std::ssize(levels), kNestedCodes);
  for (int64_t k = 0; k < positions.rows(); ++k) {
    const int level = levels[static_cast<size_t>(k)];
    const size_t first = (size_t{1} << level) - 2;  // entry of the table
    const bool in_table = first + (size_t{1} << level) <= table.size();
    for (int code = 0; code < kNestedCodes && level > 0; ++code) {
      const int prefix = code >> (8 - level);
      const float middle = (static_cast<float>(prefix) + 0.5f) * static_cast<float>(1 << (8 - level));
      positions.row(k)[code] = in_table ? from_half(table[first + static_cast<size_t>(prefix)]) : middle;
    }
  }
  return positions;
}

MatrixBuffer<double> nested_errors(Matrix<const float> weight, const NestedGrids& grids,
                                   std::span<const Level> levels, Matrix<const float> positions) {
  constexpr int64_t kTaskChannels = 64;  // each adds up its rows in their order, whatever the threads
  auto errors = MatrixBuffer<double>::zeroed(std::ssize(levels), weight.cols);
  if (const auto installed = accelerator()) {
    installed->nested_errors({weight, grids, levels, positions, errors.view()});
    return errors;
  }
  parallel_for((weight.cols + kTaskChannels - 1) / kTaskChannels, [&](int64_t task) {
    const int64_t begin = task * kTaskChannels, end = std::min(begin + kTaskChannels, weight.cols);
    RowGrids here(grids, begin, end);
    for (int64_t row = 0; row < weight.rows; ++row) {
      here.move_to(row);
      for (int64_t i = begin; i < end; ++i) {
        const float scale = here.scale(static_cast<size_t>(i - begin));
        const float minimum = here.minimum(static_cast<size_t>(i - begin));
        const uint8_t code = nested_code(weight(row, i), scale, minimum);
        for (int64_t k = 0; k < errors.rows(); ++k) {
          const bool read = levels[static_cast<size_t>(k)] > 0;
          const float decoded = read ? minimum + scale * positions(k, code) : 0.0f;
          const double difference = static_cast<double>(weight(row, i)) - static_cast<double>(decoded);
          errors.row(k)[i] += difference * difference;
        }
      }
    }
  });
  return errors;
}

}  // namespace grinqh
