// Decoding products of layout "group_mixed" on the CPU: weights repacked (cpu_order.h), inputs rounded to
// integers of 16 bits with a step for every group or 256 of them, exact integer sums.
#include <algorithm>
#include <vector>

#include "core/error.h"
#include "core/parallel.h"
#include "kernels/group_mixed/cpu_gemv_kernel.h"
#include "kernels/group_mixed/layout.h"
#include "quant/gemv.h"

namespace grinqh {

namespace {

using namespace group_mixed;

// Puts the `width` bits of a code that a part holds to input `i` of a block. lane: of its output, in the
// part's first line.
void put_code(uint8_t* lane, int width, int64_t i, uint32_t code) {
  const auto quad = static_cast<int>(i / 4);
  uint8_t* byte = lane + i % 4;
  const int bits = width == 3 ? 2 : width, fields = 8 / bits;
  byte[quad / fields * CpuOrder::kLine] |=
      static_cast<uint8_t>((code & ((1u << bits) - 1)) << (quad % fields * bits));
  if (width == 3) byte[2 * CpuOrder::kLine] |= static_cast<uint8_t>((code >> 2) << CpuOrder::third_bit(quad));
}

class GroupMixedGemv final : public Gemv {
 public:
  explicit GroupMixedGemv(const GroupMixedLinear& source)
      : Gemv(source.out(), source.in()),
        order_(source.shape().out, source.shape().in, source.shape().group_size(), source.shape().widths),
        codes_(MatrixBuffer<uint8_t>::zeroed(order_.tiles(), order_.tile_bytes)),
        scales_(MatrixBuffer<uint16_t>::zeroed(order_.tiles(), order_.groups * CpuOrder::kTile)),
        zeros_(MatrixBuffer<uint8_t>::zeroed(order_.tiles(),
                                             (order_.groups - order_.binary_groups) * CpuOrder::kTile)),
        means_(MatrixBuffer<uint16_t>::zeroed(order_.tiles(), order_.binary_groups * CpuOrder::kTile)) {
    parallel_for(order_.tiles(), [&](int64_t tile) {
      GroupMixedRow fields(source.shape());
      for (int64_t row = tile * CpuOrder::kTile; row < std::min((tile + 1) * CpuOrder::kTile, out()); ++row) {
        source.read_row(row, fields);
        pack_row(fields, row);
      }
    });
  }

  int64_t bytes() const override {
    return codes_.size() + 2 * scales_.size() + zeros_.size() + 2 * means_.size();
  }
  int64_t bytes_read(const LevelCounts&) const override { return bytes(); }
  std::unique_ptr<Gemv> clone() const override { return std::unique_ptr<Gemv>(new GroupMixedGemv(*this)); }

  void run(Matrix<const float> x, const Precision& precision, Matrix<float> y) const override {
    check_call(x, precision, y);
    const int64_t spans = std::ssize(order_.spans);
    MatrixBuffer<int8_t> upper(x.rows, order_.padded_inputs), lower(x.rows, order_.padded_inputs);
    MatrixBuffer<float> steps(x.rows, spans), sums(x.rows, spans);
    const auto rounded = [&](int64_t t) {
      return RoundedInputs{upper.row(t), lower.row(t), steps.row(t), sums.row(t)};
    };
    parallel_for(x.rows * spans, [&](int64_t task) {
      round_span(order_.spans, task % spans, x.row(task / spans), rounded(task / spans));
    });
    parallel_for(order_.tiles(), [&](int64_t tile) {
      const int64_t first = tile * CpuOrder::kTile, count = std::min(CpuOrder::kTile, out() - first);
      for (int64_t t = 0; t < x.rows; ++t) {
        float products[CpuOrder::kTile];
        multiply_tile(order_.spans, {codes_.row(tile), scales_.row(tile), zeros_.row(tile), means_.row(tile)},
                      rounded(t), products);
        std::copy_n(products, count, y.row(t) + first);
      }
    });
  }

 private:
  GroupMixedGemv(const GroupMixedGemv& other)
      : Gemv(other.out(), other.in()),
        order_(other.order_),
        codes_(other.codes_.copy()),
        scales_(other.scales_.copy()),
        zeros_(other.zeros_.copy()),
        means_(other.means_.copy()) {}

  void pack_row(const GroupMixedRow& fields, int64_t row) {
    const int64_t tile = row / CpuOrder::kTile, output = row % CpuOrder::kTile;
    for (const Span& span : order_.spans) {
      for (int64_t i = 0; i < span.inputs; ++i) {
        uint8_t* lane =
            codes_.row(tile) + span.codes + i / CpuOrder::kBlock * span.width * CpuOrder::kLine + output * 4;
        const uint32_t code = fields.codes[static_cast<size_t>(span.input + i)];
        if (span.width <= 4) {
          put_code(lane, span.width, i % CpuOrder::kBlock, code);
        } else {
          put_code(lane, span.width - 4, i % CpuOrder::kBlock, code >> 4);
          put_code(lane + (span.width - 4) * CpuOrder::kLine, 4, i % CpuOrder::kBlock, code & 15);
        }
      }
      const auto group = static_cast<size_t>(span.group);
      const int64_t at = span.place * CpuOrder::kTile + output;
      scales_.row(tile)[span.group * CpuOrder::kTile + output] = fields.scales[group];
      if (span.width > 1)
        zeros_.row(tile)[at] = fields.zeros[group];
      else
        means_.row(tile)[at] = fields.means[group];
    }
  }

  CpuOrder order_;
  MatrixBuffer<uint8_t> codes_;
  MatrixBuffer<uint16_t> scales_;
  MatrixBuffer<uint8_t> zeros_;
  MatrixBuffer<uint16_t> means_;
};

const RegisterGemv registered{
    "group_mixed", "byte_quads", "1 to 8 bits a group, any group; inputs as integers of 16 bits",
    [](const QuantizedLinear& layer) -> std::unique_ptr<Gemv> {
      return std::make_unique<GroupMixedGemv>(dynamic_cast<const GroupMixedLinear&>(layer));
    }};

}  // namespace

}  // namespace grinqh
