#include "kernels/lut_planes/cuda_gemv.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "core/parallel.h"
#include "cuda/device_properties.h"
#include "cuda/gemv.h"
#include "cuda/memory.h"
#include "kernels/lut_planes/fields.h"

namespace grinqh::cuda {

namespace {

int64_t blocks_of(int64_t out) { return (out + PlanesOrder::kOutputs - 1) / PlanesOrder::kOutputs; }
int64_t padded(int64_t out) { return blocks_of(out) * PlanesOrder::kOutputs; }

// What the device's order is made of.
class Source : public LutPlanesFields {
 public:
  using LutPlanesFields::LutPlanesFields;

  std::vector<uint32_t> chunks() const {
    using Order = PlanesOrder;
    const int64_t col_chunks = (shape().in + Order::kInputs - 1) / Order::kInputs,
                  words = shape().row_words(), planes = shape().planes();
    const std::span<const uint32_t> from = get<uint32_t>("planes");
    std::vector<uint32_t> to(
        static_cast<size_t>(blocks_of(shape().out) * col_chunks * planes * Order::kPlaneBytes / 4));
    parallel_for(blocks_of(shape().out), [&](int64_t block) {
      uint32_t* next = to.data() + block * col_chunks * planes * Order::kPlaneBytes / 4;
      for (int64_t chunk = 0; chunk < col_chunks; ++chunk)
        for (int64_t plane = 0; plane < planes; ++plane)
          for (int lane = 0; lane < Order::kLanes; ++lane)
            for (int i = 0; i < 4; ++i, ++next) {
              const int64_t row = block * Order::kOutputs + Order::output_of(lane, i);
              const int64_t word = chunk * Order::kWords + Order::word_of(lane, i);
              if (row < shape().out && word < words)
                *next = from[static_cast<size_t>((plane * shape().out + row) * words + word)];
            }
    });
    return to;
  }

  // Sets where each level's begin.
  std::vector<uint16_t> tables(int64_t (&offset)[9]) const {
    std::vector<uint16_t> to;
    const std::span<const uint16_t> from = get<uint16_t>("tables");
    for (const Level level : shape().levels) {
      if (level == 0) continue;
      offset[level] = static_cast<int64_t>(to.size());
      const auto* first = from.data() + shape().table_offset(level);
      to.insert(to.end(), first, first + shape().table_entries(level));
      to.resize(static_cast<size_t>(offset[level] + (padded(shape().out) << level)));
    }
    return to;
  }
};

// One layer in device memory.
struct Part {
  static constexpr int kChunks = 0, kTables = 1, kRows = 2, kColumns = 3, kValues = 4, kCodes = 5, kCount = 6;

  std::vector<Level> levels;
  Bytes bytes[kCount];

  Part() = default;
  Part(const Source& source, PlanesPart& part, Stream stream) : levels(source.shape().levels) {
    const auto upload = [&](int i, const auto& host) { bytes[i] = uploaded(std::span(host), stream); };
    upload(kChunks, source.chunks());
    upload(kTables, source.tables(part.table_offset));
    upload(kRows, source.get<uint32_t>("outlier_rows"));
    upload(kColumns, source.get<uint8_t>("outlier_columns"));
    upload(kValues, source.get<uint16_t>("outlier_values"));
    upload(kCodes, source.outlier_codes());
  }
  Part clone(Stream stream) const {
    Part other;
    other.levels = levels;
    for (int i = 0; i < kCount; ++i) other.bytes[i] = copy_of(bytes[i], stream);
    return other;
  }
  void point(PlanesPart& part) const {
    part.chunks = bytes[kChunks].as<uint8_t>();
    part.tables = bytes[kTables].as<uint16_t>();
    part.outlier_rows = bytes[kRows].as<uint32_t>();
    part.outlier_columns = bytes[kColumns].data();
    part.outlier_values = bytes[kValues].as<uint16_t>();
    part.outlier_codes = bytes[kCodes].as<uint8_t>();
  }

  Level resolve(Level level) const {
    if (level == kFullLevel) return levels.back();
    if (level == 0 || std::ranges::find(levels, level) == levels.end())
      bad_input(
          "lut_planes: found level {} for a decoding product, a level that the layer stores is allowed: {}",
          level, listed());
    return level;
  }
  std::string listed() const {
    std::string all;
    for (const Level level : levels)
      if (level > 0) all += (all.empty() ? "" : ", ") + std::to_string(level);
    return all;
  }
};

class LutPlanesGemv final : public Gemv {
 public:
  LutPlanesGemv(std::span<const Source> sources, int64_t out, int multiprocessors, Stream stream)
      : Gemv(out, sources.front().shape().in), multiprocessors_(multiprocessors) {
    weights_.in = in();
    int64_t first_out = 0;
    for (const Source& source : sources) {
      PlanesPart& part = weights_.parts[weights_.part_count++];
      parts_.emplace_back(source, part, stream);
      part.out = static_cast<int32_t>(source.shape().out);
      part.planes = source.shape().planes();
      part.first_block = weights_.row_blocks;
      part.first_out = static_cast<int32_t>(first_out);
      for (const Level level : source.shape().levels)
        if (level > 0) part.stored |= 1u << level;
      weights_.row_blocks += static_cast<int32_t>(blocks_of(source.shape().out));
      first_out += source.shape().out;
    }
    point();
  }

  bool fits() const {
    int most = 0;
    for (int i = 0; i < weights_.part_count; ++i) most = std::max(most, weights_.parts[i].planes);
    return planes_launch(weights_, most, 1, multiprocessors_).depth > 0;
  }

  int64_t bytes() const override {
    int64_t sum = 0;
    for (const Part& part : parts_)
      for (const Bytes& each : part.bytes) sum += each.size();
    return sum;
  }
  int64_t bytes_read(std::span<const LevelCounts> counts) const override {
    int64_t sum = 0;
    for (size_t i = 0; i < parts_.size(); ++i) {
      const PlanesPart& part = weights_.parts[i];
      int64_t level = 0;
      for (const Level each : parts_[i].levels)
        if (counts[i].channels[each] > 0) level = each;
      if (level == 0) continue;
      sum += parts_[i].bytes[Part::kChunks].size() / part.planes * level + (padded(part.out) << level) * 2;
      for (int b = Part::kRows; b < Part::kCount; ++b) sum += parts_[i].bytes[b].size();
    }
    return sum;
  }

  std::unique_ptr<Gemv> clone(Stream stream) const override {
    auto other = std::unique_ptr<LutPlanesGemv>(new LutPlanesGemv(out(), in(), multiprocessors_));
    other->weights_ = weights_;
    for (const Part& part : parts_) other->parts_.push_back(part.clone(stream));
    other->point();
    return other;
  }

  void run(const GemvInput& input, std::span<const GemvReading> readings, const GemvOutput& output,
           Stream stream) override {
    PlanesLevels levels;
    for (size_t i = 0; i < parts_.size(); ++i) {
      const GemvReading reading = readings.empty() ? GemvReading{} : readings[i];
      if (reading.grading != nullptr)
        bad_input(
            "lut_planes: found a policy that grades channels, but tables hold for whole rows: one level for "
            "all channels is allowed");
      levels.on_device[i] = reading.device_level;
      if (reading.device_level == nullptr) levels.level[i] = parts_[i].resolve(reading.level);
    }
    lut_planes_gemv(weights_, levels, input, output, multiprocessors_, stream);
  }

 private:
  LutPlanesGemv(int64_t out, int64_t in, int multiprocessors)
      : Gemv(out, in), multiprocessors_(multiprocessors) {}
  void point() {
    for (size_t i = 0; i < parts_.size(); ++i) parts_[i].point(weights_.parts[i]);
  }

  int multiprocessors_;
  PlanesStream weights_;
  std::vector<Part> parts_;
};

std::unique_ptr<Gemv> make(GemvLayers layers, Stream stream) {
  const DeviceProperties device = device_properties();
  if (device.major < 9 || layers.size() > PlanesStream::kMostParts) return nullptr;
  std::vector<Source> sources;
  int64_t out = 0;
  for (const QuantizedLinear* layer : layers) {
    sources.emplace_back(*layer);
    out += layer->out();
  }
  auto gemv = std::make_unique<LutPlanesGemv>(sources, out, device.multiprocessors, stream);
  if (!gemv->fits()) return nullptr;
  return gemv;
}

const RegisterGemv registered{"lut_planes", "counted_codes",
                              "1 to 8 bits, level also from the device; binary tensor cores, no lookups",
                              make};

}  // namespace

}  // namespace grinqh::cuda
