// Decoding products of layout "lut_planes" on the CPU: planes repacked (cpu_order.h), of which a level reads
// the first ones; entries are looked up by nibbles in registers, as integers of 14 bits with a unit a table,
// and multiplied with inputs of 14 bits with a step a block.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/error.h"
#include "core/half.h"
#include "core/parallel.h"
#include "kernels/lut_planes/cpu_gemv_kernel.h"
#include "kernels/lut_planes/fields.h"
#include "quant/bit_transpose.h"
#include "quant/gemv.h"

namespace grinqh {

namespace {

using namespace lut_planes;

constexpr size_t kLevels = 9;

CpuOrder order_of(const LutPlanesShape& shape) { return {shape.out, shape.in, std::max(shape.planes(), 2)}; }

// The tables of one level, and the unit of each.
struct LevelTables {
  std::vector<uint8_t> bytes;
  std::vector<float> units;
};

LevelTables tables_of(const LutPlanesFields& source, Level level) {
  const CpuOrder order = order_of(source.shape());
  constexpr size_t kReadBeyond = 16;
  const auto rows = static_cast<size_t>(order.tiles() * CpuOrder::kTile);
  const auto row_bytes = static_cast<size_t>(CpuOrder::table_bytes(level));
  LevelTables to{std::vector<uint8_t>(rows * row_bytes + kReadBeyond), std::vector<float>(rows)};
  for (int64_t row = 0; row < order.out; ++row) {
    const uint16_t* from = source.table_row(level, row);
    float greatest = 0;
    for (int code = 0; code < 1 << level; ++code)
      greatest = std::max(greatest, std::abs(from_half(from[code])));
    const float unit = greatest / CpuOrder::kLimit;
    uint8_t* bytes = to.bytes.data() + static_cast<size_t>(row) * row_bytes;
    for (int code = 0; code < 1 << level; ++code) {
      const auto entry =
          unit > 0 ? static_cast<int16_t>(std::lround(from_half(from[code]) / unit)) : int16_t{0};
      for (int copy = 0; copy < (level == 1 ? 2 : 1); ++copy) {
        uint8_t* low = bytes + CpuOrder::table_place(level, code) + copy;
        low[0] = static_cast<uint8_t>(entry);
        low[CpuOrder::high_after(level)] = static_cast<uint8_t>(entry >> 8);
      }
    }
    to.units[static_cast<size_t>(row)] = unit;
  }
  return to;
}

struct CodedOutliers {
  OutlierLists lists;
  std::vector<uint8_t> codes;  // what they stand in place of, the first plane highest

  explicit CodedOutliers(const LutPlanesFields& source) : codes(source.outlier_codes()) {
    const auto begin = source.get<uint32_t>("outlier_rows");
    if (begin.empty()) return;
    lists.begin.assign(begin.begin(), begin.end());
    const auto values = source.get<uint16_t>("outlier_values");
    lists.values.assign(values.begin(), values.end());
    lists.values.resize(values.size() + OutlierLists::kReadBeyond);
    for (size_t k = 0; k < values.size(); ++k)
      lists.columns.push_back(static_cast<uint16_t>(source.outlier_column(k)));
  }

  int64_t bytes() const { return lists.bytes() + std::ssize(codes); }
};

// What is multiplied at one level: a token, or its channels at that level and zeros elsewhere.
struct Pass {
  int64_t token;
  Level level;
  const float* x;
};

class LutPlanesGemv final : public Gemv {
 public:
  explicit LutPlanesGemv(const LutPlanesFields& source)
      : Gemv(source.shape().out, source.shape().in),
        stored_(source.shape().levels),
        order_(order_of(source.shape())),
        lines_(MatrixBuffer<uint8_t>::zeroed(order_.planes, order_.line_bytes())),
        outliers_(source) {
    for (const Level level : stored_)
      if (level > 0) tables_[level] = tables_of(source, level);
    parallel_for(order_.tiles(), [&](int64_t tile) {
      for (int64_t row = tile * CpuOrder::kTile; row < std::min((tile + 1) * CpuOrder::kTile, out()); ++row)
        for (int64_t block = 0; block < order_.blocks(); ++block) pack_block(source, row, block);
    });
  }

  int64_t bytes() const override {
    int64_t sum = lines_.size() + outliers_.bytes();
    for (const LevelTables& level : tables_) sum += bytes_of(level);
    return sum;
  }
  int64_t bytes_read(const LevelCounts& counts) const override {
    int64_t sum = 0, planes = 0;
    for (const Level level : stored_)
      if (level > 0 && counts.channels[level] > 0) {
        planes = CpuOrder::table_bits(level);
        sum += bytes_of(tables_[level]);
      }
    return planes == 0 ? 0 : sum + planes * order_.line_bytes() + outliers_.bytes();
  }
  std::unique_ptr<Gemv> clone() const override { return std::unique_ptr<Gemv>(new LutPlanesGemv(*this)); }

  void run(Matrix<const float> x, const Precision& precision, Matrix<float> y) const override {
    check_call(x, precision, y);
    MatrixBuffer<float> masked;
    const std::vector<Pass> passes = passes_of(x, precision, masked);
    const int64_t count = std::ssize(passes), blocks = order_.blocks();
    MatrixBuffer<int16_t> rounded(count, blocks * CpuOrder::kBlock);
    MatrixBuffer<float> steps(count, blocks);
    parallel_for(count * blocks, [&](int64_t task) {
      const int64_t pass = task / blocks;
      round_block(order_, passes[static_cast<size_t>(pass)].x, task % blocks,
                  {rounded.row(pass), steps.row(pass)});
    });
    for (int64_t t = 0; t < y.rows; ++t) std::fill_n(y.row(t), out(), 0.0f);
    parallel_for(order_.tiles(), [&](int64_t tile) {
      const int64_t first = tile * CpuOrder::kTile;
      float sums[CpuOrder::kTile];
      for (int64_t p = 0; p < count; ++p) {
        const Pass& pass = passes[static_cast<size_t>(p)];
        const TileWeights weights = weights_of(tile, pass.level);
        multiply_tile(order_, pass.level, weights, {rounded.row(p), steps.row(p)}, pass.x, sums);
        for (int64_t row = 0; row < weights.outputs; ++row) y(pass.token, first + row) += sums[row];
      }
    });
  }

 private:
  LutPlanesGemv(const LutPlanesGemv& other)
      : Gemv(other.out(), other.in()),
        stored_(other.stored_),
        order_(other.order_),
        lines_(other.lines_.copy()),
        tables_(other.tables_),
        outliers_(other.outliers_) {}

  static int64_t bytes_of(const LevelTables& level) {
    return static_cast<int64_t>(level.bytes.size() + level.units.size() * sizeof(float));
  }

  TileWeights weights_of(int64_t tile, Level level) const {
    TileWeights weights;
    for (int segment = 0; segment < order_.segments(); ++segment)
      weights.segments[segment] =
          lines_.data() + order_.segment_begin(segment) + tile * order_.tile_bytes(segment);
    const LevelTables& tables = tables_[level];
    weights.tables = tables.bytes.data() + tile * CpuOrder::kTile * CpuOrder::table_bytes(level);
    weights.units = tables.units.data() + tile * CpuOrder::kTile;
    weights.outliers = outliers_.lists.from_row(tile * CpuOrder::kTile);
    weights.outlier_codes = outliers_.codes.data();
    weights.outputs = std::min(CpuOrder::kTile, out() - tile * CpuOrder::kTile);
    return weights;
  }

  std::vector<Pass> passes_of(Matrix<const float> x, const Precision& precision,
                              MatrixBuffer<float>& masked) const {
    const auto stores = [&](Level level) { return std::ranges::find(stored_, level) != stored_.end(); };
    std::vector<Pass> passes;
    if (precision.levels.empty()) {
      const Level level = precision.uniform == kFullLevel ? stored_.back() : precision.uniform;
      check(stores(level) || level == 0, "gemv: a level that the layer stores");
      for (int64_t t = 0; level > 0 && t < x.rows; ++t) passes.push_back({t, level, x.row(t)});
      return passes;
    }
    masked = MatrixBuffer<float>(x.rows * std::ssize(stored_), in());
    int64_t next = 0;
    for (int64_t t = 0; t < x.rows; ++t) {
      const LevelCounts counts = LevelCounts::of(precision.levels.row_span(t), stored_);
      int64_t found = 0;
      for (const Level level : stored_) {
        found += counts.channels[level];
        if (level == 0 || counts.channels[level] == 0) continue;
        float* to = masked.row(next++);
        for (int64_t i = 0; i < in(); ++i) to[i] = precision.levels(t, i) == level ? x(t, i) : 0.0f;
        passes.push_back({t, level, to});
      }
      check(found == in(), "gemv: a level that the layer stores");
    }
    return passes;
  }

  // Bit k of byte p is bit p of word k.
  static void put_line(const std::array<uint64_t, 8>& words, uint8_t* line) {
    for (size_t eight = 0; eight < 8; ++eight) {
      uint64_t square = 0;
      for (size_t k = 0; k < 8; ++k) square |= (words[k] >> (8 * eight) & 255) << (8 * k);
      square = transpose_bits(square);
      std::memcpy(line + 8 * eight, &square, 8);
    }
  }

  void pack_block(const LutPlanesFields& source, int64_t row, int64_t block) {
    const int64_t words = source.shape().row_words(), first = block * CpuOrder::kBlock / 32;
    // Of slot s of a plane.
    const auto word = [&](int plane, int slot) {
      uint64_t both = 0;
      if (plane >= source.shape().planes()) return both;
      for (int64_t half = 0; half < 2; ++half)
        if (const int64_t at = first + slot * 2 + half; at < words)
          both |= uint64_t{source.plane_row(plane, row)[at]} << (32 * half);
      return both;
    };
    const auto line_at = [&](int segment) {
      const int64_t span = block / CpuOrder::kSpanBlocks * CpuOrder::kSpanBlocks;
      return lines_.data() + order_.segment_begin(segment) +
             row / CpuOrder::kTile * order_.tile_bytes(segment) +
             order_.row_begin(segment, span, row % CpuOrder::kTile) +
             (block - span) * CpuOrder::lines_of(segment) * CpuOrder::kLine;
    };
    std::array<uint64_t, 8> bits{};
    for (int line = 0; line < 2; ++line) {
      for (int field = 0; field < 4; ++field) {
        bits[static_cast<size_t>(2 * field)] = word(1, line * 4 + field);
        bits[static_cast<size_t>(2 * field + 1)] = word(0, line * 4 + field);
      }
      put_line(bits, line_at(0) + line * CpuOrder::kLine);
    }
    for (int plane = 2; plane < order_.planes; ++plane) {
      for (int slot = 0; slot < CpuOrder::kSlots; ++slot)
        bits[static_cast<size_t>(CpuOrder::bit_of(plane, slot))] = word(plane, slot);
      put_line(bits, line_at(plane - 1));
    }
  }

  std::vector<Level> stored_;
  CpuOrder order_;
  MatrixBuffer<uint8_t> lines_;
  std::array<LevelTables, kLevels> tables_;
  CodedOutliers outliers_;
};

std::unique_ptr<Gemv> make(const QuantizedLinear& layer) {
  const LutPlanesFields source(layer);
  // Columns of outliers are kept in 16 bits.
  if (source.shape().in > 65536 && !source.get<uint32_t>("outlier_rows").empty()) return nullptr;
  return std::make_unique<LutPlanesGemv>(source);
}

const RegisterGemv registered{
    "lut_planes", "nibble_lookups",
    "1 to 8 bits, any level of one store; entries and inputs as integers of 14 bits", make};

}  // namespace

}  // namespace grinqh
