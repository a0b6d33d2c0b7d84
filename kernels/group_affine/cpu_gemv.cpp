// Decoding products of layout "group_affine" on the CPU: weights repacked (cpu_order.h), inputs rounded to
// integers of 15 bits with a step for every group or 256 of them, exact integer sums.
#include <algorithm>
#include <cstring>
#include <vector>

#include "core/error.h"
#include "core/half.h"
#include "core/parallel.h"
#include "kernels/group_affine/cpu_gemv_kernel.h"
#include "kernels/group_affine/cpu_parameters.h"
#include "quant/gemv.h"

namespace grinqh {

namespace {

using namespace group_affine;

CpuOrder order_of(const GroupAffineShape& shape) {
  CpuOrder order;
  order.out = shape.out;
  order.in = shape.in;
  order.group = shape.group_size();
  order.bits = shape.bits;
  order.zeros = shape.symmetric ? Zeros::middle : shape.real_zeros ? Zeros::halves : Zeros::bytes;
  return order;
}

// Puts the `width` bits of a code that a part holds to input `i` of a block. words: the lane of its output in
// the part's first 64 bytes.
void put_code(uint32_t* words, int width, int64_t i, uint32_t code) {
  const auto quad = static_cast<int>(i / 4), byte = static_cast<int>(i % 4 * 8);
  if (width == 3 && quad >= 6) {
    words[(quad - 6) * 16] |= (code & 3) << (byte + 6);
    words[2 * 16] |= code >> 2 << (byte + quad);
  } else {
    const int fields = 8 / width;
    words[quad / fields * 16] |= code << (byte + quad % fields * width);
  }
}

class GroupAffineGemv final : public Gemv {
 public:
  explicit GroupAffineGemv(const GroupAffineFields& source)
      : Gemv(source.shape.out, source.shape.in),
        order_(order_of(source.shape)),
        spans_(order_.spans()),
        codes_(MatrixBuffer<uint32_t>::zeroed(order_.tiles(), order_.tile_bytes() / 4)),
        scales_(MatrixBuffer<uint16_t>::zeroed(1, order_.parameters())),
        zeros_(MatrixBuffer<uint8_t>::zeroed(1, order_.parameters() * order_.zero_bytes())) {
    parallel_for(order_.tiles(), [&](int64_t tile) { pack_tile(source, tile); });
    if (!source.shape.column_scales) return;
    std::vector<uint16_t> halves(static_cast<size_t>(in()));
    std::memcpy(halves.data(), source.column_scales, halves.size() * sizeof(uint16_t));
    columns_.resize(halves.size());
    std::ranges::transform(halves, columns_.begin(), from_half);
  }

  int64_t bytes() const override {
    return order_.bytes() + static_cast<int64_t>(columns_.size() * sizeof(float));
  }
  int64_t bytes_read(const LevelCounts&) const override { return bytes(); }

  std::unique_ptr<Gemv> clone() const override { return std::unique_ptr<Gemv>(new GroupAffineGemv(*this)); }

  void run(Matrix<const float> x, const Precision& precision, Matrix<float> y) const override {
    check_call(x, precision, y);
    check_full(precision);
    const int64_t limbs = order_.blocks() * 2 * CpuOrder::kBlock, spans = std::ssize(spans_);
    MatrixBuffer<int8_t> rounded(x.rows, limbs);
    MatrixBuffer<float> steps(x.rows, spans), sums(x.rows, spans);
    std::vector<RoundedInputs> tokens;
    for (int64_t t = 0; t < x.rows; ++t) tokens.push_back({rounded.row(t), steps.row(t), sums.row(t)});
    parallel_for(x.rows, [&](int64_t t) {
      round_inputs(spans_, x.row(t), columns_.empty() ? nullptr : columns_.data(),
                   tokens[static_cast<size_t>(t)]);
    });
    // Tiles that follow each other in memory are one task: what is fetched ahead is not another thread's.
    constexpr int64_t kTasks = 64;
    const int64_t tiles = order_.tiles(), tasks = std::min(tiles, kTasks);
    parallel_for(tasks, [&](int64_t task) {
      for (int64_t tile = tiles * task / tasks; tile < tiles * (task + 1) / tasks; ++tile)
        run_tile(tile, tokens, y);
    });
  }

 private:
  void check_full(const Precision& precision) const {
    const auto full = [&](Level level) { return level == order_.bits; };
    bool all = precision.uniform == kFullLevel || full(precision.uniform);
    for (int64_t t = 0; t < precision.levels.rows; ++t)
      all = all && std::ranges::all_of(precision.levels.row_span(t), full);
    check(all, "gemv: a kernel that reads all channels is not asked to grade them");
  }

  GroupAffineGemv(const GroupAffineGemv& other)
      : Gemv(other.out(), other.in()),
        order_(other.order_),
        spans_(other.spans_),
        codes_(other.codes_.copy()),
        scales_(other.scales_.copy()),
        zeros_(other.zeros_.copy()),
        columns_(other.columns_) {}

  void run_tile(int64_t tile, std::span<const RoundedInputs> tokens, Matrix<float> y) const {
    alignas(64) float sums_of_tile[kMaxGemvTokens * CpuOrder::kTile];
    multiply_tile(order_, spans_, weights_of(tile), tokens, sums_of_tile);
    const int64_t first = tile * CpuOrder::kTile, count = std::min(CpuOrder::kTile, out() - first);
    for (int64_t t = 0; t < y.rows; ++t)
      std::copy_n(sums_of_tile + t * CpuOrder::kTile, count, y.row(t) + first);
  }

  TileWeights weights_of(int64_t tile) const {
    const int64_t parameters = tile * order_.groups() * CpuOrder::kTile;
    return {reinterpret_cast<const uint8_t*>(codes_.row(tile)), scales_.data() + parameters,
            zeros_.data() + parameters * order_.zero_bytes()};
  }

  void pack_tile(const GroupAffineFields& source, int64_t tile) {
    const int64_t first = tile * CpuOrder::kTile, count = std::min(CpuOrder::kTile, out() - first);
    const int upper = order_.bits > 4 && order_.bits < 8 ? order_.bits - 4 : 0;
    for (int64_t output = 0; output < count; ++output) {
      const int64_t row = first + output;
      for (const Span& span : spans_)
        for (int64_t i = 0; i < span.inputs; ++i) {
          const int64_t block = span.block + i / CpuOrder::kBlock;
          uint32_t* words = codes_.row(tile) + block * order_.block_bytes() / 4 +
                            output / CpuOrder::kStrip * 16 * order_.bits + output % CpuOrder::kStrip;
          const uint32_t code = source.code(row, span.input + i);
          if (upper == 0) {
            put_code(words, order_.bits, i % CpuOrder::kBlock, code);
          } else {
            put_code(words, upper, i % CpuOrder::kBlock, code >> 4);
            put_code(words + upper * 16, 4, i % CpuOrder::kBlock, code & 15);
          }
        }
      for (int64_t g = 0; g < order_.groups(); ++g)
        copy_parameters(source, row, g, order_.zeros, (tile * order_.groups() + g) * CpuOrder::kTile + output,
                        scales_.data(), zeros_.data());
    }
  }

  CpuOrder order_;
  std::vector<Span> spans_;
  MatrixBuffer<uint32_t> codes_;
  MatrixBuffer<uint16_t> scales_;
  MatrixBuffer<uint8_t> zeros_;
  std::vector<float> columns_;
};

const RegisterGemv registered{"group_affine", "integer_bytes",
                              "2 to 8 bits, any group; inputs as integers of 15 bits",
                              [](const QuantizedLinear& layer) -> std::unique_ptr<Gemv> {
                                return std::make_unique<GroupAffineGemv>(GroupAffineFields(layer));
                              },
                              GemvKernel::Grades::no};

}  // namespace

}  // namespace grinqh
