// Decoding products of layout "nested" on the CPU: planes repacked (cpu_order.h); for each token the channels
// of a block are listed by level, and nothing of a plane is touched that their levels leave out. A channel's
// input, times its scale where groups lie along the outputs, becomes an integer with a step a block and
// group; sums are exact.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "core/error.h"
#include "core/half.h"
#include "core/parallel.h"
#include "kernels/nested/cpu_gemv_kernel.h"
#include "kernels/nested/layout.h"
#include "quant/bit_transpose.h"
#include "quant/gemv.h"

namespace grinqh {

namespace {

using namespace nested;

constexpr size_t kLevels = CpuOrder::kPlanes + 1;

// The layer's buffers as it owns them.
struct Source {
  NestedShape shape;
  const uint8_t* planes = nullptr;
  std::vector<uint16_t> scales, minima, table;

  explicit Source(const QuantizedLinear& layer) : shape(NestedShape::of(layer.attributes())) {
    for (const NamedBuffer& buffer : layer.buffers()) {
      const auto copy_to = [&](std::vector<uint16_t>& to) {
        to.resize(buffer.bytes.size() / 2);
        std::memcpy(to.data(), buffer.bytes.data(), buffer.bytes.size());
      };
      if (buffer.name == "planes") planes = reinterpret_cast<const uint8_t*>(buffer.bytes.data());
      if (buffer.name == "scales") copy_to(scales);
      if (buffer.name == "minima") copy_to(minima);
      if (buffer.name == "table") copy_to(table);
    }
  }
};

CpuOrder order_of(const NestedShape& shape) {
  CpuOrder order;
  order.out = shape.out;
  order.in = shape.in;
  order.along_inputs = shape.axis == GroupAxis::input;
  order.group = std::min(shape.group_size(), order.along_inputs ? order.in : order.out);
  order.set_levels(shape.levels);
  return order;
}

// What levels' codes stand for, and the greatest factor whose products with them sum up within 32 bits.
struct Values {
  std::array<LevelValues, kLevels> levels;
  float limit = 32767;

  Values(int table_levels, const std::vector<uint16_t>& table) {
    for (int level = 1; level < static_cast<int>(kLevels); ++level) {
      LevelValues& values = levels[static_cast<size_t>(level)];
      values.width = level <= 2 ? level : level <= 4 ? 4 : 8;
      values.exponent = 8 - values.width;
      values.bias = 0.5f * static_cast<float>(1 << (8 - level));
    }
    if (!table.empty()) set_tables(table_levels, table);
    for (LevelValues& values : levels)
      for (int s = 0; s < CpuOrder::kSums && values.width > 0; ++s) {
        const int moved = values.by_table ? 0 : CpuOrder::moved(values.width, s);
        values.exponents[static_cast<size_t>(s)] = values.exponent - moved;
        values.units[static_cast<size_t>(s)] = std::ldexp(1.0f, values.exponent - moved);
      }
  }

 private:
  void set_tables(int table_levels, const std::vector<uint16_t>& table) {
    // Entries are counted from the middle of the range, where they are smallest, in so fine a unit that 256
    // products with factors of 12 bits stay below 2^31.
    constexpr float kMiddle = 128, kGreatest = 2048;
    limit = 4095;
    float greatest = 0;
    for (const uint16_t entry : table) greatest = std::max(greatest, std::abs(from_half(entry) - kMiddle));
    int exponent = -4;
    while (std::ldexp(greatest, -exponent) > kGreatest) ++exponent;
    for (int level = 1; level <= table_levels; ++level) {
      LevelValues& values = levels[static_cast<size_t>(level)];
      values.by_table = true;
      values.exponent = exponent;
      values.bias = kMiddle;
      const auto* entries = table.data() + NestedShape::table_offset(level);
      const size_t index_bits = std::min(values.width, 6), spare = index_bits - static_cast<size_t>(level);
      for (size_t at = 0; at < values.table.size(); ++at) {
        const float entry = from_half(entries[(at & ((size_t{1} << index_bits) - 1)) >> spare]);
        values.table[at] = static_cast<int16_t>(std::lround(std::ldexp(entry - kMiddle, -exponent)));
      }
    }
  }
};

// A token's channels by what it reads of them.
struct Listed {
  std::vector<float> x, biases;
  std::vector<uint16_t> channels;
  std::vector<int32_t> counts;
};

class NestedGemv final : public Gemv {
 public:
  NestedGemv(const QuantizedLinear& layer, const Source& source)
      : Gemv(layer.out(), layer.in()),
        stored_(layer.levels().begin(), layer.levels().end()),
        order_(order_of(source.shape)),
        blocks_(order_.blocks()),
        values_(source.shape.table_levels, source.table),
        table_entries_(std::ssize(source.table)),
        lines_(MatrixBuffer<uint8_t>::zeroed(order_.tiles(), order_.tile_bytes())),
        scales_(MatrixBuffer<uint16_t>::zeroed(1, order_.parameters())),
        minima_(MatrixBuffer<uint16_t>::zeroed(1, order_.parameters())) {
    pack_parameters(source);
    parallel_for(std::ssize(blocks_), [&](int64_t b) {
      for (int64_t tile = 0; tile < order_.tiles(); ++tile)
        pack_lines(source, blocks_[static_cast<size_t>(b)], tile);
    });
  }

  int64_t bytes() const override {
    return lines_.size() + 2 * (scales_.size() + minima_.size()) + static_cast<int64_t>(sizeof(Values));
  }
  int64_t bytes_read(const LevelCounts& counts) const override {
    int64_t lines = 0;
    for (size_t level = 1; level < kLevels; ++level)
      lines += counts.channels[level] * static_cast<int64_t>(level) * order_.tiles();
    // Scales of channels that are not read share their cache lines with others.
    return lines * CpuOrder::kLine + 2 * (scales_.size() + minima_.size()) + 2 * table_entries_;
  }

  std::unique_ptr<Gemv> clone() const override { return std::unique_ptr<Gemv>(new NestedGemv(*this)); }

  void run(Matrix<const float> x, const Precision& precision, Matrix<float> y) const override {
    check(x.cols == in() && y.cols == out() && x.rows == y.rows && x.rows <= kMaxGemvTokens, "gemv: shapes");
    check(precision.levels.empty() || (precision.levels.rows == x.rows && precision.levels.cols == in()),
          "gemv: levels of every token");
    std::vector<Listed> listed(static_cast<size_t>(x.rows));
    parallel_for(x.rows, [&](int64_t t) { listed[static_cast<size_t>(t)] = list(x, precision, t); });
    std::vector<TokenInputs> tokens;
    for (const Listed& token : listed)
      tokens.push_back({token.x.data(), token.biases.data(), token.channels.data(), token.counts.data()});

    // Slices of the channels, where tiles alone are few; their sums are added up in their order.
    constexpr int64_t kTasks = 32;
    const int64_t tiles = order_.tiles(), blocks = std::ssize(blocks_);
    const int64_t slices = std::clamp<int64_t>((kTasks + tiles - 1) / tiles, 1, blocks);
    MatrixBuffer<float> sums(slices * tiles, x.rows * CpuOrder::kTile);
    parallel_for(tiles * slices, [&](int64_t task) {
      const int64_t tile = task / slices, slice = task % slices;
      multiply_tile({order_, blocks_, tile, blocks * slice / slices, blocks * (slice + 1) / slices,
                     values_.levels, values_.limit},
                    weights_of(tile), tokens, sums.row(slice * tiles + tile));
    });
    for (int64_t t = 0; t < y.rows; ++t) add_slices(sums, slices, t, y.row(t));
  }

 private:
  NestedGemv(const NestedGemv& other)
      : Gemv(other.out(), other.in()),
        stored_(other.stored_),
        order_(other.order_),
        blocks_(other.blocks_),
        values_(other.values_),
        table_entries_(other.table_entries_),
        lines_(other.lines_.copy()),
        scales_(other.scales_.copy()),
        minima_(other.minima_.copy()) {}

  TileWeights weights_of(int64_t tile) const {
    const int64_t parameters =
        order_.along_inputs ? tile * order_.groups() * CpuOrder::kTile : order_.first_group(tile) * in();
    return {lines_.row(tile), scales_.data() + parameters, minima_.data() + parameters};
  }

  Listed list(Matrix<const float> x, const Precision& precision, int64_t t) const {
    const auto channels = static_cast<size_t>(in());
    Listed listed{{x.row(t), x.row(t) + in()},
                  std::vector<float>(channels),
                  std::vector<uint16_t>(channels),
                  std::vector<int32_t>(blocks_.size() * kLevels)};
    const std::vector<Level> uniform(precision.levels.empty() ? CpuOrder::kBlock : 0,
                                     precision.uniform == kFullLevel ? stored_.back() : precision.uniform);
    for (size_t b = 0; b < blocks_.size(); ++b) {
      const CpuOrder::Block& block = blocks_[b];
      const Level* levels = uniform.empty() ? precision.levels.row(t) + block.channel : uniform.data();
      const auto count = static_cast<size_t>(block.channels);
      int32_t* counts = listed.counts.data() + b * kLevels;
      std::array<int32_t, 256> found{};
      for (size_t i = 0; i < count; ++i) ++found[levels[i]];
      std::array<int32_t, kLevels> next{};
      int32_t total = 0;
      for (const Level level : stored_) {
        counts[level] = found[level];
        next[level] = total;
        total += found[level];
      }
      check(total == block.channels, "gemv: a level that the layer stores");
      for (size_t i = 0; i < count; ++i) {
        const Level level = levels[i];
        const auto at = static_cast<size_t>(block.channel) + i;
        listed.channels[static_cast<size_t>(block.channel + next[level]++)] = static_cast<uint16_t>(i);
        listed.biases[at] = values_.levels[level].bias;
        if (level == 0) listed.x[at] = 0;
      }
    }
    return listed;
  }

  void add_slices(const MatrixBuffer<float>& sums, int64_t slices, int64_t t, float* y) const {
    const auto part = [&](int64_t slice, int64_t tile) {
      return sums.row(slice * order_.tiles() + tile) + t * CpuOrder::kTile;
    };
    for (int64_t tile = 0; tile < order_.tiles(); ++tile)
      for (int64_t slice = 1; slice < slices; ++slice)
        for (int64_t s = 0; s < CpuOrder::kTile; ++s) part(0, tile)[s] += part(slice, tile)[s];
    // Outputs that follow each other, as far as their slots do.
    const int64_t run = order_.along_inputs ? out() : order_.group;
    for (int64_t output = 0; output < out();) {
      const int64_t slot = order_.slot(output), in_tile = slot % CpuOrder::kTile;
      const int64_t count = std::min({run - output % run, CpuOrder::kTile - in_tile, out() - output});
      std::copy_n(part(0, slot / CpuOrder::kTile) + in_tile, count, y + output);
      output += count;
    }
  }

  void pack_parameters(const Source& source) {
    if (order_.along_inputs) {  // [out][groups]
      for (int64_t row = 0; row < out(); ++row)
        for (int64_t g = 0; g < order_.groups(); ++g) {
          const auto from = static_cast<size_t>(row * order_.groups() + g);
          const int64_t to =
              (row / CpuOrder::kTile * order_.groups() + g) * CpuOrder::kTile + row % CpuOrder::kTile;
          scales_.data()[to] = source.scales[from];
          minima_.data()[to] = source.minima[from];
        }
    } else {  // [in][groups]
      for (int64_t i = 0; i < in(); ++i)
        for (int64_t g = 0; g < order_.groups(); ++g) {
          const auto from = static_cast<size_t>(i * order_.groups() + g);
          scales_.data()[g * in() + i] = source.scales[from];
          minima_.data()[g * in() + i] = source.minima[from];
        }
    }
  }

  // Bits of the outputs of a tile, slot after slot, from a plane's bytes.
  void gather_bits(const uint8_t* plane, int64_t tile, uint8_t* bits) const {
    const int64_t begin = tile * CpuOrder::kTile;
    if (order_.along_inputs || order_.group == order_.group_slots()) {
      const int64_t bytes = (out() + 7) / 8 - begin / 8;
      std::copy_n(plane + begin / 8, std::min(CpuOrder::kTile / 8, bytes), bits);
      return;
    }
    for (int64_t output = 0; output < out(); ++output) {
      const int64_t s = order_.slot(output) - begin;
      if (s >= 0 && s < CpuOrder::kTile)
        bits[s / 8] |= static_cast<uint8_t>((plane[output / 8] >> (output % 8) & 1) << (s % 8));
    }
  }

  void pack_lines(const Source& source, const CpuOrder::Block& block, int64_t tile) {
    const int64_t plane_bytes = (out() + 7) / 8;
    for (int plane = 0; plane < order_.planes; ++plane)
      for (int64_t i = block.channel; i < block.channel + block.channels; ++i) {
        uint8_t bits[CpuOrder::kTile / 8] = {};
        gather_bits(source.planes + (plane * in() + i) * plane_bytes, tile, bits);
        // Bit l of 16-bit word k becomes bit k of lane l, 8 x 8 bits at a time.
        for (int words = 0; words < 4; ++words) {
          const CpuOrder::Place place = order_.place(block, plane, words / 2);
          uint8_t* to = lines_.row(tile) + place.begin + (i - block.channel) * place.stride +
                        place.shift / 8 + words % 2;
          for (int lanes = 0; lanes < 2; ++lanes) {
            uint64_t square = 0;
            for (int k = 0; k < 8; ++k)
              square |= static_cast<uint64_t>(bits[(words * 8 + k) * 2 + lanes]) << (8 * k);
            square = transpose_bits(square);
            for (int l = 0; l < 8; ++l) to[(lanes * 8 + l) * 4] = static_cast<uint8_t>(square >> (8 * l));
          }
        }
      }
  }

  std::vector<Level> stored_;
  CpuOrder order_;
  std::vector<CpuOrder::Block> blocks_;
  Values values_;
  int64_t table_entries_;
  MatrixBuffer<uint8_t> lines_;
  MatrixBuffer<uint16_t> scales_, minima_;
};

const RegisterGemv registered{
    "nested", "integer_pairs",
    "any levels, single channels skipped; inputs as integers of 16 bits, 12 with a table",
    [](const QuantizedLinear& layer) -> std::unique_ptr<Gemv> {
      return std::make_unique<NestedGemv>(layer, Source(layer));
    }};

}  // namespace

}  // namespace grinqh
