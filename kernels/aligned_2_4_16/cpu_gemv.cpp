// Decoding products of layout "aligned_2_4_16" on the CPU: weights repacked (cpu_order.h), inputs rounded to
// integers of 16 bits with a step for 128 of them, exact integer sums a group.
#include <algorithm>
#include <cstring>
#include <vector>

#include "core/error.h"
#include "core/half.h"
#include "core/parallel.h"
#include "kernels/aligned_2_4_16/cpu_gemv_kernel.h"
#include "kernels/aligned_2_4_16/fields.h"
#include "quant/gemv.h"

namespace grinqh {

namespace {

using namespace aligned_2_4_16;

constexpr int64_t kNobody = -1;

CpuOrder order_of(const Aligned2416Shape& shape) {
  return {shape.out, shape.in, shape.narrow_groups(), shape.wide_groups()};
}

// The group in each place of the order's blocks.
std::vector<int64_t> groups_in_order(const Aligned2416Shape& shape) {
  std::vector<int64_t> groups;
  for (const uint8_t kind : {0, 1}) {
    for (int64_t g = 0; g < shape.groups(); ++g)
      if (shape.wide[static_cast<size_t>(g)] == kind) groups.push_back(g);
    while (std::ssize(groups) % CpuOrder::kBlockGroups != 0) groups.push_back(kNobody);
  }
  return groups;
}

class Aligned2416Gemv final : public Gemv {
 public:
  explicit Aligned2416Gemv(const Aligned2416Fields& source)
      : Gemv(source.shape.out, source.shape.in),
        order_(order_of(source.shape)),
        groups_(groups_in_order(source.shape)),
        blocks_(MatrixBuffer<uint8_t>::zeroed(order_.tiles(), order_.tile_bytes())) {
    parallel_for(order_.tiles(), [&](int64_t tile) {
      for (int64_t row = tile * CpuOrder::kTile; row < std::min((tile + 1) * CpuOrder::kTile, out()); ++row)
        for (int64_t place = 0; place < std::ssize(groups_); ++place) pack_group(source, row, place);
    });
    list_outliers(source);
  }

  int64_t bytes() const override { return blocks_.size() + outliers_.bytes(); }
  int64_t bytes_read(const LevelCounts&) const override { return bytes(); }
  std::unique_ptr<Gemv> clone() const override { return std::unique_ptr<Gemv>(new Aligned2416Gemv(*this)); }

  void run(Matrix<const float> x, const Precision& precision, Matrix<float> y) const override {
    check_call(x, precision, y);
    const int64_t blocks = order_.blocks();
    MatrixBuffer<int8_t> upper(x.rows, blocks * CpuOrder::kBlock), lower(x.rows, upper.cols());
    MatrixBuffer<float> sums(x.rows, blocks * CpuOrder::kBlockGroups), steps(x.rows, blocks);
    const auto rounded = [&](int64_t t) {
      return RoundedInputs{upper.row(t), lower.row(t), sums.row(t), steps.row(t)};
    };
    parallel_for(x.rows * blocks, [&](int64_t task) {
      float inputs[CpuOrder::kBlock];
      gather_block(x.row(task / blocks), task % blocks, inputs);
      round_block(inputs, task % blocks, rounded(task / blocks));
    });
    parallel_for(order_.tiles(), [&](int64_t tile) {
      const int64_t first = tile * CpuOrder::kTile, count = std::min(CpuOrder::kTile, out() - first);
      for (int64_t t = 0; t < x.rows; ++t) {
        float products[CpuOrder::kTile];
        multiply_tile(order_, {blocks_.row(tile), outliers_.from_row(first), count}, rounded(t), x.row(t),
                      products);
        std::copy_n(products, count, y.row(t) + first);
      }
    });
  }

 private:
  Aligned2416Gemv(const Aligned2416Gemv& other)
      : Gemv(other.out(), other.in()),
        order_(other.order_),
        groups_(other.groups_),
        blocks_(other.blocks_.copy()),
        outliers_(other.outliers_) {}

  void gather_block(const float* x, int64_t block, float* to) const {
    std::fill_n(to, CpuOrder::kBlock, 0.0f);
    for (int64_t g = 0; g < CpuOrder::kBlockGroups; ++g, to += CpuOrder::kGroup) {
      const int64_t group = groups_[static_cast<size_t>(block * CpuOrder::kBlockGroups + g)];
      if (group == kNobody) continue;
      const int64_t first = group * CpuOrder::kGroup;
      std::copy_n(x + first, std::min(CpuOrder::kGroup, in() - first), to);
    }
  }

  void pack_group(const Aligned2416Fields& source, int64_t row, int64_t place) {
    const int64_t group = groups_[static_cast<size_t>(place)], output = row % CpuOrder::kTile;
    if (group == kNobody) return;
    const int64_t block = place / CpuOrder::kBlockGroups, in_block = place % CpuOrder::kBlockGroups;
    uint8_t* tile = blocks_.row(row / CpuOrder::kTile);
    if (block < order_.narrow_blocks())
      pack_narrow(source, row, group, in_block * CpuOrder::kTile + output,
                  tile + block * CpuOrder::kNarrowBytes);
    else
      pack_wide(source, row, group, in_block * CpuOrder::kTile + output,
                tile + order_.narrow_blocks() * CpuOrder::kNarrowBytes +
                    (block - order_.narrow_blocks()) * CpuOrder::kWideBytes);
  }

  // at: of an output in its block, [8 groups][16 outputs].
  static void pack_narrow(const Aligned2416Fields& source, int64_t row, int64_t group, int64_t at,
                          uint8_t* block) {
    const uint64_t codes = source.codes(row, group);
    for (int i = 0; i < 16; ++i)
      block[at * 4 + i % 4] |= static_cast<uint8_t>((codes >> (2 * i) & 3) << (2 * (i / 4)));
    block[CpuOrder::kFirst + at] =
        static_cast<uint8_t>(source.zero(row, group) | source.scale_code(row, group) << 4);
    const int64_t rows = row / Aligned2416Shape::kBlockRows;
    const float scale = from_half(source.second_scale(rows, group));
    const float second[2] = {scale, scale * static_cast<float>(source.second_zero(rows, group))};
    std::memcpy(block + CpuOrder::kSecond + at / CpuOrder::kTile * 8, second, sizeof(second));
  }

  static void pack_wide(const Aligned2416Fields& source, int64_t row, int64_t group, int64_t at,
                        uint8_t* block) {
    const uint64_t codes = source.codes(row, group);
    uint8_t* lanes = block + at / CpuOrder::kTile * 2 * CpuOrder::kLine + at % CpuOrder::kTile * 4;
    for (int i = 0; i < 16; ++i)
      lanes[i / 8 * CpuOrder::kLine + i % 4] |=
          static_cast<uint8_t>((codes >> (4 * i) & 15) << (4 * (i / 4 % 2)));
    const uint16_t scale = source.wide_scale(row, group);
    std::memcpy(block + CpuOrder::kScales + at * 2, &scale, sizeof(scale));
    block[CpuOrder::kZeros + at] = static_cast<uint8_t>(source.zero(row, group));
  }

  void list_outliers(const Aligned2416Fields& source) {
    outliers_.begin.push_back(0);
    for (int64_t row = 0; row < out(); ++row) {
      const auto [begin, end] = source.outliers_of(row, 0, in());
      for (int64_t k = begin; k < end; ++k) {
        outliers_.columns.push_back(static_cast<uint16_t>(source.outlier_column(k)));
        outliers_.values.push_back(source.outlier_value(k));
      }
      outliers_.begin.push_back(static_cast<uint32_t>(outliers_.columns.size()));
    }
    if (outliers_.columns.empty()) outliers_ = {};
    outliers_.values.resize(outliers_.values.size() + OutlierLists::kReadBeyond);
  }

  CpuOrder order_;
  std::vector<int64_t> groups_;
  MatrixBuffer<uint8_t> blocks_;
  OutlierLists outliers_;
};

const RegisterGemv registered{"aligned_2_4_16", "byte_quads",
                              "inputs as integers of 16 bits; narrow groups, wide ones, then outliers",
                              [](const QuantizedLinear& layer) -> std::unique_ptr<Gemv> {
                                return std::make_unique<Aligned2416Gemv>(Aligned2416Fields(layer));
                              }};

}  // namespace

}  // namespace grinqh
