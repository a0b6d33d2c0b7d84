// Decoding products of layout "dense16" on the CPU: weights repacked (cpu_order.h), float32 sums channel by
// channel; of a channel that a token leaves out nothing is touched.
#include <algorithm>
#include <cstring>
#include <vector>

#include "core/dtype.h"
#include "core/error.h"
#include "core/parallel.h"
#include "kernels/dense/cpu_gemv_kernel.h"
#include "kernels/dense/cpu_order.h"
#include "quant/gemv.h"
#include "quant/quantized_linear.h"

namespace grinqh {

namespace {

using namespace dense;

constexpr Level kWhole = 16;

CpuOrder order_of(const QuantizedLinear& layer) {
  return {layer.out(), layer.in(), layer.attributes().at("dtype") == to_string(DType::bf16)};
}

// A block of this many channels of a tile stays in the second cache until the last token has read it.
constexpr int64_t kBlock = 128;

// A token's channels and inputs, and where those of each block begin.
struct Listed {
  std::vector<int32_t> channels;
  std::vector<float> x;
  std::vector<size_t> begin;  // [blocks + 1]

  ChannelInputs of_blocks(int64_t first, int64_t last) const {
    const size_t from = begin[static_cast<size_t>(first)], until = begin[static_cast<size_t>(last)];
    return {std::span(channels).subspan(from, until - from), x.data() + from};
  }
};

class DenseGemv final : public Gemv {
 public:
  explicit DenseGemv(const QuantizedLinear& layer)
      : Gemv(layer.out(), layer.in()), order_(order_of(layer)), weights_(1, order_.weights()) {
    const auto* from = reinterpret_cast<const uint16_t*>(layer.buffers().front().bytes.data());
    parallel_for(order_.tiles(), [&](int64_t tile) { pack_tile(from, tile); });
  }

  int64_t bytes() const override { return weights_.size() * 2; }
  int64_t bytes_read(const LevelCounts& counts) const override {
    return bytes() / in() * counts.channels[kWhole];
  }
  std::unique_ptr<Gemv> clone() const override { return std::unique_ptr<Gemv>(new DenseGemv(*this)); }

  void run(Matrix<const float> x, const Precision& precision, Matrix<float> y) const override {
    check_call(x, precision, y);
    // Slices of the channels, where tiles alone are few; their sums are added up in their order.
    constexpr int64_t kTasks = 64;
    const int64_t tiles = order_.tiles(), blocks = (in() + kBlock - 1) / kBlock;
    const int64_t slices = std::clamp<int64_t>((kTasks + tiles - 1) / tiles, 1, blocks);
    std::vector<Listed> tokens(static_cast<size_t>(x.rows));
    parallel_for(x.rows, [&](int64_t t) { tokens[static_cast<size_t>(t)] = list(x, precision, t); });
    auto sums = MatrixBuffer<float>::zeroed(slices * tiles, x.rows * CpuOrder::kTile);
    parallel_for(tiles * slices, [&](int64_t task) {
      const int64_t tile = task / slices, slice = task % slices;
      add_blocks(tile, blocks * slice / slices, blocks * (slice + 1) / slices, tokens,
                 sums.row(slice * tiles + tile));
    });
    for (int64_t tile = 0; tile < tiles; ++tile)
      for (int64_t t = 0; t < y.rows; ++t) {
        const int64_t first = tile * CpuOrder::kTile, count = std::min(CpuOrder::kTile, out() - first);
        float* sum = sums.row(tile) + t * CpuOrder::kTile;
        for (int64_t slice = 1; slice < slices; ++slice) {
          const float* part = sums.row(slice * tiles + tile) + t * CpuOrder::kTile;
          for (int64_t output = 0; output < count; ++output) sum[output] += part[output];
        }
        std::copy_n(sum, count, y.row(t) + first);
      }
  }

 private:
  DenseGemv(const DenseGemv& other)
      : Gemv(other.out(), other.in()), order_(other.order_), weights_(other.weights_.copy()) {}

  // channels: [in][out]
  void pack_tile(const uint16_t* channels, int64_t tile) {
    const int64_t first = tile * CpuOrder::kTile, count = std::min(CpuOrder::kTile, out() - first);
    uint16_t* to = weights_.data() + order_.tile_begin(tile);
    for (int64_t i = 0; i < in(); ++i, to += order_.width(tile)) {
      std::fill_n(to, order_.width(tile), uint16_t{0});
      for (int64_t output = 0; output < count; ++output)
        to[order_.place(output)] = channels[i * out() + first + output];
    }
  }

  Listed list(Matrix<const float> x, const Precision& precision, int64_t t) const {
    Listed listed;
    const Level uniform = precision.uniform == kFullLevel ? kWhole : precision.uniform;
    for (int64_t i = 0; i < in(); ++i) {
      if (i % kBlock == 0) listed.begin.push_back(listed.channels.size());
      const Level level = precision.levels.empty() ? uniform : precision.levels(t, i);
      check(level == 0 || level == kWhole, "gemv: a level that the layer stores");
      if (level == 0) continue;
      listed.channels.push_back(static_cast<int32_t>(i));
      listed.x.push_back(x(t, i));
    }
    listed.begin.push_back(listed.channels.size());
    return listed;
  }

  // Adds blocks [begin, end) of the channels. sums: [tokens][512]
  void add_blocks(int64_t tile, int64_t begin, int64_t end, std::span<const Listed> tokens,
                  float* sums) const {
    const TileWeights weights{weights_.data() + order_.tile_begin(tile), order_.width(tile), order_.bf16};
    // Several tokens take turns, so that the later ones find a block in the cache.
    const int64_t step = tokens.size() == 1 ? end - begin : 1;
    for (int64_t block = begin; block < end; block += step)
      for (size_t t = 0; t < tokens.size(); ++t)
        add_channels(weights, tokens[t].of_blocks(block, block + step),
                     sums + static_cast<int64_t>(t) * CpuOrder::kTile);
  }

  CpuOrder order_;
  MatrixBuffer<uint16_t> weights_;
};

const RegisterGemv registered{
    "dense16", "channels", "16 bits, single channels skipped; float32 sums",
    [](const QuantizedLinear& layer) -> std::unique_ptr<Gemv> { return std::make_unique<DenseGemv>(layer); }};

}  // namespace

}  // namespace grinqh
