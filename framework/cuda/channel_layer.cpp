#include "cuda/channel_layer.h"
#include "cuda/device_properties.h"

#include "core/error.h"
#include "cuda/memory.h"

namespace grinqh::cuda {

namespace {

class ChannelGemv final : public Gemv {
 public:
  ChannelGemv(const ChannelWeights& weights, const ChannelShape& shape, Level full)
      : Gemv(weights.out, weights.in), weights_(weights), shape_(shape), full_(full) {}

  void upload(const ChannelBuffers& buffers, Stream stream) {
    const auto put = [&](int part, const void* host, size_t size) {
      if (size == 0) return;
      parts_[part] = Bytes(static_cast<int64_t>(size), stream);
      to_device(host, parts_[part].data(), static_cast<int64_t>(size), stream);
    };
    put(0, buffers.data.data(), buffers.data.size());
    put(1, buffers.scales.data(), buffers.scales.size() * 2);
    put(2, buffers.zeros.data(), buffers.zeros.size() * 2);
    put(3, buffers.column_scales.data(), buffers.column_scales.size() * 2);
    finish(stream);
  }

  int64_t bytes() const override {
    int64_t sum = partials_.size() + arrivals_.size();
    for (const Bytes& part : parts_) sum += part.size();
    return sum;
  }
  int64_t bytes_read(std::span<const LevelCounts> counts) const override {
    const int64_t channels = counts.empty() ? in() : int64_t{counts.front().channels[full_]};
    int64_t sum = channels * out() * (weights_.element == ChannelWeights::Element::codes8 ? 1 : 2);
    for (int part = 1; part < 4; ++part) sum += parts_[part].size();
    return sum;
  }

  std::unique_ptr<Gemv> clone(Stream stream) const override {
    auto other = std::make_unique<ChannelGemv>(weights_, shape_, full_);
    for (size_t i = 0; i < std::size(parts_); ++i) {
      if (parts_[i].size() == 0) continue;
      other->parts_[i] = Bytes(parts_[i].size(), stream);
      check_call(cudaMemcpyAsync(other->parts_[i].data(), parts_[i].data(),
                                 static_cast<size_t>(parts_[i].size()), cudaMemcpyDeviceToDevice, stream),
                 "cudaMemcpyAsync");
    }
    other->finish(stream);
    return other;
  }

  void run(const GemvInput& input, std::span<const GemvReading> readings, const GemvOutput& output,
           Stream stream) override {
    channel_gemv(weights_, shape_, reading_of(readings), input, output, partials_.as<float>(),
                 arrivals_.as<int32_t>(), stream);
  }

 private:
  ChannelReading reading_of(std::span<const GemvReading> readings) const {
    if (readings.empty() || readings.front().grading == nullptr) return {};
    const GradingRule& rule = *readings.front().grading;
    check(rule.budget < 0, "a channel product grades by thresholds, not by a budget");
    if (rule.count == 1 && rule.levels[0] == full_) return {};
    check(rule.count == 2 && rule.levels[0] == 0 && rule.levels[1] == full_,
          "a channel product skips channels or reads them in full");
    return {rule.thresholds, rule.shared};
  }
  void finish(Stream stream) {
    weights_.data = parts_[0].data();
    weights_.scales = parts_[1].as<uint16_t>();
    weights_.zeros = parts_[2].as<uint16_t>();
    weights_.column_scales = parts_[3].as<uint16_t>();
    if (shape_.slices == 1) return;
    partials_ = Bytes(shape_.partial_floats(kMaxGemvTokens) * 4, stream);
    arrivals_ = Bytes(int64_t{shape_.tiles} * 4, stream);
    fill_zero(arrivals_.data(), arrivals_.size(), stream);
  }

  ChannelWeights weights_;
  ChannelShape shape_;
  Level full_;
  Bytes parts_[4];  // data, scales, zeros, column scales
  Bytes partials_, arrivals_;
};

}  // namespace

std::unique_ptr<Gemv> make_channel_gemv(ChannelWeights weights, const ChannelBuffers& buffers, Level full,
                                        Stream stream) {
  const DeviceProperties device = device_properties();
  if (device.major < 9) return nullptr;
  auto gemv = std::make_unique<ChannelGemv>(
      weights, channel_shape(weights.out, weights.in, device.multiprocessors), full);
  gemv->upload(buffers, stream);
  return gemv;
}

}  // namespace grinqh::cuda
