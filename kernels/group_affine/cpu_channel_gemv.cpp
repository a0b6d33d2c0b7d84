// Decoding products of layout "group_affine" at 8 bits on the CPU where channels are left out: codes repacked
// by channels (cpu_channel_order.h), float32 sums; of a channel that a token leaves out nothing is touched.
#include <algorithm>
#include <cstring>
#include <vector>

#include "core/error.h"
#include "core/half.h"
#include "core/parallel.h"
#include "kernels/group_affine/cpu_channel_gemv_kernel.h"
#include "kernels/group_affine/cpu_parameters.h"
#include "quant/gemv.h"

namespace grinqh {

namespace {

using namespace group_affine;

constexpr Level kWhole = 8;

ChannelOrder order_of(const GroupAffineShape& shape) {
  ChannelOrder order;
  order.out = shape.out;
  order.in = shape.in;
  order.group = shape.group_size();
  order.zeros = shape.symmetric ? Zeros::middle : shape.real_zeros ? Zeros::halves : Zeros::bytes;
  return order;
}

// Channels that a token reads in a slice of the spans, and its inputs there.
struct Listed {
  std::vector<int32_t> channels;
  std::vector<float> x;
  std::vector<size_t> begin;  // of each span, and the end
  std::vector<float> sums;    // of x, by span

  // follow: channels of the spans behind it are read next.
  SpanInputs of_span(size_t span, bool follow) const {
    const size_t from = begin[span], until = begin[span + 1];
    return {std::span(channels).subspan(from, until - from),
            follow ? static_cast<int64_t>(begin.back() - until) : 0, x.data() + from, sums[span]};
  }
};

// In an order that vectors can keep.
float sum_of(std::span<const float> values) {
  constexpr size_t kSums = 8;
  float sums[kSums] = {};
  size_t i = 0;
  for (; i + kSums <= values.size(); i += kSums)
    for (size_t j = 0; j < kSums; ++j) sums[j] += values[i + j];
  for (; i < values.size(); ++i) sums[i % kSums] += values[i];
  float sum = 0;
  for (const float each : sums) sum += each;
  return sum;
}

class ChannelGemv final : public Gemv {
 public:
  explicit ChannelGemv(const GroupAffineFields& source)
      : Gemv(source.shape.out, source.shape.in),
        order_(order_of(source.shape)),
        spans_(order_.spans()),
        codes_(MatrixBuffer<uint8_t>(1, order_.codes())),
        scales_(MatrixBuffer<uint16_t>::zeroed(1, order_.parameters())),
        zeros_(MatrixBuffer<uint8_t>::zeroed(1, order_.parameters() * order_.zero_bytes())) {
    parallel_for(order_.tiles(), [&](int64_t tile) {
      pack_codes(source, tile);
      pack_parameters(source, tile);
    });
    for (int64_t i = 0; source.shape.column_scales && i < in(); ++i)
      columns_.push_back(from_half(GroupAffineFields::half_at(source.column_scales, i)));
  }

  int64_t bytes() const override { return codes_.size() + parameter_bytes(in()); }
  int64_t bytes_read(const LevelCounts& counts) const override {
    const int64_t channels = counts.channels[kWhole];
    return order_.outputs() * channels + parameter_bytes(channels);
  }
  std::unique_ptr<Gemv> clone() const override { return std::unique_ptr<Gemv>(new ChannelGemv(*this)); }

  void run(Matrix<const float> x, const Precision& precision, Matrix<float> y) const override {
    check_call(x, precision, y);
    // Slices of the channels, where tiles alone are few; their sums are added up in their order.
    constexpr int64_t kTasks = 64;
    const int64_t tiles = order_.tiles(), spans = std::ssize(spans_);
    const int64_t slices = std::clamp<int64_t>((kTasks + tiles - 1) / tiles, 1, spans);
    const auto spans_of = [&](int64_t slice) {
      const auto begin = static_cast<size_t>(spans * slice / slices);
      return std::span(spans_).subspan(begin, static_cast<size_t>(spans * (slice + 1) / slices) - begin);
    };
    std::vector<Listed> listed(static_cast<size_t>(slices * x.rows));  // [slices][tokens]
    parallel_for(slices * x.rows, [&](int64_t i) {
      listed[static_cast<size_t>(i)] = list(x, precision, i % x.rows, spans_of(i / x.rows));
    });
    auto sums = MatrixBuffer<float>::zeroed(slices * tiles, x.rows * ChannelOrder::kTile);
    parallel_for(tiles * slices, [&](int64_t task) {
      const int64_t tile = task / slices, slice = task % slices;
      const auto tokens =
          std::span(listed).subspan(static_cast<size_t>(slice * x.rows), static_cast<size_t>(x.rows));
      add_spans(tile, spans_of(slice), tokens, sums.row(slice * tiles + tile));
    });
    for (int64_t tile = 0; tile < tiles; ++tile)
      for (int64_t t = 0; t < y.rows; ++t) {
        const int64_t first = tile * ChannelOrder::kTile,
                      count = std::min(ChannelOrder::kTile, out() - first);
        float* sum = sums.row(tile) + t * ChannelOrder::kTile;
        for (int64_t slice = 1; slice < slices; ++slice) {
          const float* part = sums.row(slice * tiles + tile) + t * ChannelOrder::kTile;
          for (int64_t output = 0; output < count; ++output) sum[output] += part[output];
        }
        std::copy_n(sum, count, y.row(t) + first);
      }
  }

 private:
  ChannelGemv(const ChannelGemv& other)
      : Gemv(other.out(), other.in()),
        order_(other.order_),
        spans_(other.spans_),
        codes_(other.codes_.copy()),
        scales_(other.scales_.copy()),
        zeros_(other.zeros_.copy()),
        columns_(other.columns_) {}

  // Scales of groups stand for many channels, so they count whatever is read.
  int64_t parameter_bytes(int64_t channels) const {
    return scales_.size() * 2 + zeros_.size() +
           (columns_.empty() ? 0 : channels * static_cast<int64_t>(sizeof(float)));
  }

  void pack_codes(const GroupAffineFields& source, int64_t tile) {
    constexpr int64_t kChannels = 64;  // of a row are in the cache
    const int64_t first = tile * ChannelOrder::kTile, width = order_.width(tile);
    const int64_t count = std::min(width, out() - first);
    uint8_t* to = codes_.data() + order_.tile_codes(tile);
    for (int64_t begin = 0; begin < in(); begin += kChannels) {
      const int64_t end = std::min(begin + kChannels, in());
      for (int64_t output = 0; output < count; ++output)
        for (int64_t i = begin; i < end; ++i)
          to[i * width + output] = source.codes[(first + output) * in() + i];
      for (int64_t i = begin; i < end; ++i)
        std::fill(to + i * width + count, to + (i + 1) * width, uint8_t{0});
    }
  }

  void pack_parameters(const GroupAffineFields& source, int64_t tile) {
    const int64_t first = tile * ChannelOrder::kTile, width = order_.width(tile);
    for (int64_t g = 0; g < order_.groups(); ++g)
      for (int64_t row = first; row < std::min(first + width, out()); ++row) {
        const int64_t to = order_.tile_parameters(tile) + g * width + row - first;
        copy_parameters(source, row, g, order_.zeros, to, scales_.data(), zeros_.data());
      }
  }

  Listed list(Matrix<const float> x, const Precision& precision, int64_t t,
              std::span<const ChannelSpan> spans) const {
    const int32_t first = spans.front().first, end = spans.back().first + spans.back().count;
    const auto channels = static_cast<size_t>(end - first);
    const Level uniform = precision.uniform == kFullLevel ? kWhole : precision.uniform;
    const std::vector<Level> same(precision.levels.empty() ? channels : 0, uniform);
    const std::span<const Level> levels =
        same.empty() ? precision.levels.row_span(t).subspan(static_cast<size_t>(first), channels) : same;
    check(std::ranges::all_of(levels, [](Level level) { return level == 0 || level == kWhole; }),
          "gemv: a level that the layer stores");

    Listed listed{std::vector<int32_t>(channels), std::vector<float>(channels), {0}, {}};
    size_t count = 0;
    for (const ChannelSpan& span : spans) {
      // No branch on what is read: nothing would foresee it.
      for (int32_t i = span.first; i < span.first + span.count; ++i) {
        listed.channels[count] = i;
        listed.x[count] = x(t, i);
        count += levels[static_cast<size_t>(i - first)] != 0;
      }
      const auto inputs = std::span(listed.x).subspan(listed.begin.back(), count - listed.begin.back());
      if (!columns_.empty())
        for (size_t k = 0; k < inputs.size(); ++k)
          inputs[k] *= columns_[static_cast<size_t>(listed.channels[listed.begin.back() + k])];
      listed.begin.push_back(count);
      listed.sums.push_back(sum_of(inputs));
    }
    return listed;
  }

  // Adds the products of some spans. sums: [tokens][kTile]
  void add_spans(int64_t tile, std::span<const ChannelSpan> spans, std::span<const Listed> tokens,
                 float* sums) const {
    const int64_t width = order_.width(tile);
    SpanWeights weights{codes_.data() + order_.tile_codes(tile), nullptr, nullptr, order_.zeros, width};
    for (size_t span = 0; span < spans.size(); ++span) {
      const int64_t parameters = order_.tile_parameters(tile) + spans[span].group * width;
      weights.scales = scales_.data() + parameters;
      weights.zeros = zeros_.data() + parameters * order_.zero_bytes();
      // Several tokens take turns, so that the later ones find a span in the cache.
      for (size_t t = 0; t < tokens.size(); ++t)
        add_span(weights, tokens[t].of_span(span, tokens.size() == 1),
                 sums + static_cast<int64_t>(t) * ChannelOrder::kTile);
    }
  }

  ChannelOrder order_;
  std::vector<ChannelSpan> spans_;
  MatrixBuffer<uint8_t> codes_;
  MatrixBuffer<uint16_t> scales_;
  MatrixBuffer<uint8_t> zeros_;
  std::vector<float> columns_;
};

// After the kernel that reads everything, which is taken where no channel is left out.
const RegisterGemv registered{"group_affine", "single_channels",
                              "8 bits, single channels skipped; float32 sums",
                              [](const QuantizedLinear& layer) -> std::unique_ptr<Gemv> {
                                const GroupAffineFields fields(layer);
                                if (fields.shape.bits != kWhole) return nullptr;
                                return std::make_unique<ChannelGemv>(fields);
                              }};

}  // namespace

}  // namespace grinqh
