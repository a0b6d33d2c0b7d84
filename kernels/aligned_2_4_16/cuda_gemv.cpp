#include "kernels/aligned_2_4_16/cuda_gemv.h"

#include <algorithm>
#include <cstring>

#include "cuda/device_properties.h"
#include "cuda/gemv.h"
#include "cuda/memory.h"
#include "kernels/aligned_2_4_16/gemv_units.h"

namespace grinqh::cuda {

namespace {

// From so many inputs on, a block that makes all of them as integers spends longer on it than two need to add
// up their sums.
constexpr int64_t kInputsToSplit = 8192;

static_assert(sizeof(RowBlockBegin) == sizeof(Aligned2416Units::Begin));

Bytes copied(const Bytes& from, Stream stream) {
  if (from.size() == 0) return {};
  Bytes to(from.size(), stream);
  check_call(cudaMemcpyAsync(to.data(), from.data(), static_cast<size_t>(from.size()),
                             cudaMemcpyDeviceToDevice, stream),
             "cudaMemcpyAsync");
  return to;
}

template <class T>
Bytes uploaded(const std::vector<T>& host, Stream stream) {
  const auto size = static_cast<int64_t>(host.size() * sizeof(T));
  Bytes device(size, stream);
  to_device(host.data(), device.data(), size, stream);
  return device;
}

struct LayerMemory {
  Bytes units, begins, groups;

  void point(Aligned2416Part& part) const {
    part.units = units.as<uint8_t>();
    part.begins = begins.size() > 0 ? begins.as<RowBlockBegin>() : nullptr;
    part.groups = groups.as<int16_t>();
  }
};

class Aligned2416Gemv final : public Gemv {
 public:
  Aligned2416Gemv(GemvLayers layers, Dequantization how, int multiprocessors, Stream stream)
      : Gemv(out_of(layers), layers.front()->in()), how_(how) {
    stream_.splits = in() >= kInputsToSplit ? Aligned2416Stream::kMostSplits : 1;
    int64_t first = 0;
    for (const QuantizedLinear* layer : layers) {
      for (int split = 0; split < stream_.splits; ++split) {
        const Aligned2416Units host(*layer, split, stream_.splits);
        Aligned2416Part& part = stream_.parts[stream_.layers * stream_.splits + split];
        part.order = host.order;
        part.row_blocks = static_cast<int>(host.begins.size()) - 1;
        for (size_t block = 1; block < host.begins.size(); ++block) {
          const auto &before = host.begins[block - 1], &after = host.begins[block];
          part.most_units = std::max(part.most_units, static_cast<int>(after.unit - before.unit));
          part.most_runs = std::max(part.most_runs, static_cast<int>(after.runs - before.runs));
        }
        part.second = {host.begins[1].runs, host.begins[1].unit};
        part.out = layer->out();
        part.first_out = first;
        memory_.push_back({uploaded(host.units, stream), host.even ? Bytes() : uploaded(host.begins, stream),
                           uploaded(host.groups, stream)});
        memory_.back().point(part);
      }
      first += layer->out();
      ++stream_.layers;
    }
    stream_.in = in();
    deal_blocks(stream_, multiprocessors);
  }

  bool fits() const { return ring_depth(stream_, 1, how_) > 0 && ring_depth(stream_, 4, how_) > 0; }

  int64_t bytes() const override {
    int64_t sum = 0;
    for (const LayerMemory& layer : memory_)
      sum += layer.units.size() + layer.begins.size() + layer.groups.size();
    return sum;
  }
  int64_t bytes_read(std::span<const LevelCounts>) const override { return bytes(); }

  std::unique_ptr<Gemv> clone(Stream stream) const override {
    auto other = std::unique_ptr<Aligned2416Gemv>(new Aligned2416Gemv(out(), in(), how_));
    other->stream_ = stream_;
    for (size_t i = 0; i < memory_.size(); ++i) {
      const LayerMemory& from = memory_[i];
      other->memory_.push_back(
          {copied(from.units, stream), copied(from.begins, stream), copied(from.groups, stream)});
      other->memory_.back().point(other->stream_.parts[i]);
    }
    return other;
  }

  // There is one level, and no channel is left out.
  void run(const GemvInput& input, std::span<const GemvReading>, const GemvOutput& output,
           Stream stream) override {
    aligned_2_4_16_gemv(stream_, how_, input, output, stream);
  }

 private:
  Aligned2416Gemv(int64_t out, int64_t in, Dequantization how) : Gemv(out, in), how_(how) {}

  static int64_t out_of(GemvLayers layers) {
    int64_t sum = 0;
    for (const QuantizedLinear* layer : layers) sum += layer->out();
    return sum;
  }

  Dequantization how_;
  Aligned2416Stream stream_;
  std::vector<LayerMemory> memory_;
};

MakeGemv maker(Dequantization how) {
  return [how](GemvLayers layers, Stream stream) -> std::unique_ptr<Gemv> {
    const DeviceProperties device = device_properties();
    if (device.major < 9 || std::ssize(layers) > Aligned2416Stream::kMostLayers) return nullptr;
    auto gemv = std::make_unique<Aligned2416Gemv>(layers, how, device.multiprocessors, stream);
    if (!gemv->fits()) return nullptr;
    return gemv;
  };
}

const RegisterGemv asynchronous{"aligned_2_4_16", "asynchronous",
                                "copies of weights and second-order scales overlap with arithmetic; outliers "
                                "in the same kernel",
                                maker(Dequantization::asynchronous)};
const RegisterGemv synchronous{"aligned_2_4_16", "synchronous",
                               "the same, but scales are loaded, then codes, then both multiplied, one part "
                               "of a layer after the other",
                               maker(Dequantization::synchronous)};

}  // namespace

}  // namespace grinqh::cuda
