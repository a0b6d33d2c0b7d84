#include "kernels/group_affine/cuda_gemv.h"

#include <algorithm>
#include <cstring>

#include "core/half.h"
#include "core/parallel.h"
#include "cuda/device_properties.h"
#include "cuda/gemv.h"
#include "cuda/memory.h"
#include "kernels/group_affine/fields.h"

namespace grinqh::cuda {

namespace {

GemvOrder order_of(const GroupAffineShape& shape) {
  GemvOrder order;
  order.bits = shape.bits;
  order.per_channel = shape.groups() == 1;
  order.group = order.per_channel ? 128 : static_cast<int>(shape.group);
  order.zeros = shape.symmetric    ? GemvOrder::Zeros::none
                : shape.real_zeros ? GemvOrder::Zeros::halves
                                   : GemvOrder::Zeros::integers;
  return order;
}

bool has_order(const GroupAffineShape& shape) {
  const bool width = shape.bits == 2 || shape.bits == 3 || shape.bits == 4 || shape.bits == 8;
  return width && (shape.groups() == 1 || shape.group == 32 || shape.group == 64 || shape.group == 128);
}

// Layers one below another: all of one shape but for their outputs.
class Stack {
 public:
  explicit Stack(GemvLayers layers) {
    for (const QuantizedLinear* layer : layers) {
      parts_.emplace_back(*layer);
      out_ += layer->out();
    }
  }
  const GroupAffineShape& shape() const { return parts_.front().shape; }
  int64_t out() const { return out_; }
  const uint8_t* column_scales() const { return parts_.front().column_scales; }

  bool alike() const {
    return std::ranges::all_of(parts_, [&](const GroupAffineFields& part) {
      GroupAffineShape same = part.shape;
      same.out = shape().out;
      const size_t columns = shape().column_scales ? static_cast<size_t>(shape().in) * 2 : 0;
      return same == shape() &&
             (columns == 0 || std::memcmp(part.column_scales, column_scales(), columns) == 0);
    });
  }
  uint32_t code(int64_t row, int64_t i) const { return part_of(row).code(row, i); }
  uint16_t scale(int64_t row, int64_t g) const { return part_of(row).scale(row, g); }
  uint16_t real_zero(int64_t row, int64_t g) const { return part_of(row).real_zero(row, g); }
  uint32_t integer_zero(int64_t row, int64_t g) const { return part_of(row).integer_zero(row, g); }

 private:
  // The layer that has a row of all, which becomes a row of that layer.
  const GroupAffineFields& part_of(int64_t& row) const {
    size_t part = 0;
    while (row >= parts_[part].shape.out) row -= parts_[part++].shape.out;
    return parts_[part];
  }

  std::vector<GroupAffineFields> parts_;
  int64_t out_ = 0;
};

// Scales and zero points of a block of four groups, the first of them `group`.
void pack_block(const Stack& source, const GemvOrder& order, int64_t first_row, int64_t group,
                uint8_t* scales, uint8_t* zeros) {
  for (int entry = 0; entry < 32; ++entry)
    for (int half = 0; half < 2; ++half) {
      const int64_t row = first_row + entry / 4 + 8 * half, g = group + entry % 4;
      if (row >= source.out() || g >= source.shape().groups()) continue;
      const int at = entry * 2 + half;
      const uint16_t scale = source.scale(row, g);
      std::memcpy(scales + at * 2, &scale, 2);
      if (order.zeros == GemvOrder::Zeros::halves) {
        const uint16_t zero = source.real_zero(row, g);
        std::memcpy(scales + 128 + at * 2, &zero, 2);
      } else if (order.zeros == GemvOrder::Zeros::integers) {
        const int bit = at * order.bits;
        const uint32_t value = source.integer_zero(row, g) << bit % 8;
        zeros[bit / 8] |= static_cast<uint8_t>(value);
        if (value > 0xff) zeros[bit / 8 + 1] |= static_cast<uint8_t>(value >> 8);
      }
    }
}

struct Packed {
  std::vector<uint8_t> chunks, zeros;
};
Packed pack(const Stack& source, const GemvOrder& order, int64_t row_blocks, int64_t col_chunks) {
  const int64_t chunk_bytes = order.chunk_bytes(), zero_bytes = order.zero_bytes();
  Packed packed{std::vector<uint8_t>(static_cast<size_t>(row_blocks * col_chunks * chunk_bytes)),
                std::vector<uint8_t>(static_cast<size_t>(row_blocks * col_chunks * zero_bytes))};
  parallel_for(row_blocks, [&](int64_t block) {
    const int64_t row = block * GemvOrder::kOutputs;
    for (int64_t c = 0; c < col_chunks; ++c) {
      const int64_t chunk = block * col_chunks + c, col = c * GemvOrder::kInputs;
      uint8_t* to = packed.chunks.data() + chunk * chunk_bytes;
      pack_gemv_codes(
          order,
          [&](int output, int input) -> uint32_t {
            const bool inside = row + output < source.out() && col + input < source.shape().in;
            return inside ? source.code(row + output, col + input) : 0;
          },
          to);
      if (order.per_channel) continue;
      for (int b = 0; b < order.blocks(); ++b)
        pack_block(source, order, row, (c * order.blocks() + b) * 4,
                   to + order.code_bytes() + b * order.block_bytes(),
                   packed.zeros.data() + chunk * zero_bytes + b * order.zero_block_bytes());
    }
  });
  return packed;
}

// Per channel: of outputs g and g + 8 of 16 side by side.
template <class Value>
std::vector<uint16_t> of_rows(int64_t out, int64_t row_blocks, const Value& value) {
  std::vector<uint16_t> halves(static_cast<size_t>(row_blocks * GemvOrder::kOutputs));
  for (int64_t row = 0; row < out; ++row)
    halves[static_cast<size_t>(row / 16 * 16 + row % 8 * 2 + row % 16 / 8)] = value(row);
  return halves;
}

class GroupAffineGemv final : public Gemv {
 public:
  GroupAffineGemv(const Stack& source, int multiprocessors, Stream stream)
      : Gemv(source.out(), source.shape().in), multiprocessors_(multiprocessors) {
    stream_.order = order_of(source.shape());
    stream_.out = out();
    stream_.in = in();
    const int64_t row_blocks = stream_.row_blocks();
    const Packed packed = pack(source, stream_.order, row_blocks, stream_.col_chunks());
    parts_[0] = uploaded(packed.chunks, stream);
    if (!packed.zeros.empty()) parts_[4] = uploaded(packed.zeros, stream);
    if (stream_.order.per_channel) {
      const auto scale = [&](int64_t row) { return source.scale(row, 0); };
      const auto zero = [&](int64_t row) {
        return source.shape().real_zeros ? source.real_zero(row, 0)
                                         : to_half(static_cast<float>(source.integer_zero(row, 0)));
      };
      parts_[1] = uploaded(of_rows(out(), row_blocks, scale), stream);
      if (!source.shape().symmetric) parts_[2] = uploaded(of_rows(out(), row_blocks, zero), stream);
    }
    if (source.shape().column_scales)
      parts_[3] =
          uploaded(std::vector<uint8_t>(source.column_scales(), source.column_scales() + in() * 2), stream);
    point();
  }

  bool fits() const { return stream_shape(stream_, 1, multiprocessors_).slots > 0; }

  int64_t bytes() const override {
    int64_t sum = 0;
    for (const Bytes& part : parts_) sum += part.size();
    return sum;
  }
  int64_t bytes_read(std::span<const LevelCounts>) const override { return bytes(); }

  std::unique_ptr<Gemv> clone(Stream stream) const override {
    auto other = std::unique_ptr<GroupAffineGemv>(new GroupAffineGemv(out(), in(), multiprocessors_));
    other->stream_ = stream_;
    for (size_t i = 0; i < std::size(parts_); ++i) {
      if (parts_[i].size() == 0) continue;
      other->parts_[i] = Bytes(parts_[i].size(), stream);
      check_call(cudaMemcpyAsync(other->parts_[i].data(), parts_[i].data(),
                                 static_cast<size_t>(parts_[i].size()), cudaMemcpyDeviceToDevice, stream),
                 "cudaMemcpyAsync");
    }
    other->point();
    return other;
  }

  // Every channel is read in full.
  void run(const GemvInput& input, std::span<const GemvReading>, const GemvOutput& output,
           Stream stream) override {
    group_affine_gemv(stream_, input, output, multiprocessors_, stream);
  }

 private:
  GroupAffineGemv(int64_t out, int64_t in, int multiprocessors)
      : Gemv(out, in), multiprocessors_(multiprocessors) {}

  template <class T>
  static Bytes uploaded(const std::vector<T>& host, Stream stream) {
    const auto size = static_cast<int64_t>(host.size() * sizeof(T));
    Bytes device(size, stream);
    to_device(host.data(), device.data(), size, stream);
    return device;
  }
  void point() {
    stream_.chunks = parts_[0].as<uint8_t>();
    stream_.row_scales = parts_[1].as<uint16_t>();
    stream_.row_zeros = parts_[2].as<uint16_t>();
    stream_.column_scales = parts_[3].as<uint16_t>();
    stream_.zeros = parts_[4].as<uint8_t>();
  }

  int multiprocessors_;
  GroupAffineStream stream_;
  Bytes parts_[5];  // chunks, scales and zeros per channel, column scales, integer zeros
};

std::unique_ptr<Gemv> make(GemvLayers layers, Stream stream) {
  const DeviceProperties device = device_properties();
  const Stack source(layers);
  if (device.major < 9 || !has_order(source.shape()) || !source.alike()) return nullptr;
  auto gemv = std::make_unique<GroupAffineGemv>(source, device.multiprocessors, stream);
  if (!gemv->fits()) return nullptr;
  return gemv;
}

const RegisterGemv registered{"group_affine", "streamed_chunks",
                              "2, 3, 4, 8 bits, groups of 32, 64, 128 or per channel; integer tensor cores",
                              make, GemvKernel::Grades::no};

}  // namespace

}  // namespace grinqh::cuda
