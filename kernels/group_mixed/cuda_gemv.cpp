#include "kernels/group_mixed/cuda_gemv.h"

#include <algorithm>
#include <ranges>

#include "core/parallel.h"
#include "cuda/device_properties.h"
#include "cuda/gemv.h"
#include "cuda/memory.h"
#include "kernels/group_mixed/fields.h"

namespace grinqh::cuda {

namespace {

using Order = MixedOrder;
constexpr int kMostBits = Order::kMostBits;

// Which groups lie together: chunks by the bits of their codes, the fewest first, and their groups, -1: none.
struct MixedChunks {
  std::vector<int> bits;
  std::vector<int16_t> groups;

  // Groups from the widest down fill one chunk after the other, each as wide as its widest: no other order
  // stores less. Groups of one bit, which decode in another way, are by themselves.
  MixedChunks(const GroupMixedShape& shape, int of_chunk) {
    std::vector<std::pair<int, std::vector<int16_t>>> chunks;
    for (int width = kMostBits; width >= 1; --width)
      for (int64_t g = 0; g < shape.groups(); ++g) {
        if (shape.widths[static_cast<size_t>(g)] != width) continue;
        const bool fresh = chunks.empty() || std::ssize(chunks.back().second) == of_chunk ||
                           (width == 1 && chunks.back().first > 1);
        if (fresh) chunks.push_back({width, {}});
        chunks.back().second.push_back(static_cast<int16_t>(g));
      }
    for (auto& [width, members] : std::views::reverse(chunks)) {
      members.resize(static_cast<size_t>(of_chunk), int16_t{-1});
      bits.push_back(width);
      groups.insert(groups.end(), members.begin(), members.end());
    }
  }
};

// Layers one below another, equal in everything but their outputs.
class Stack {
 public:
  explicit Stack(GemvLayers layers) {
    for (const QuantizedLinear* layer : layers) {
      parts_.emplace_back(*layer);
      out_ += layer->out();
    }
  }
  const GroupMixedShape& shape() const { return parts_.front().shape; }
  int64_t out() const { return out_; }
  bool alike() const {
    return std::ranges::all_of(parts_, [&](const GroupMixedFields& part) {
      return part.shape.group_size() == shape().group_size() && part.shape.widths == shape().widths;
    });
  }
  // The layer that has a row of all, and which of its rows that is.
  std::pair<const GroupMixedFields*, int64_t> at(int64_t row) const {
    const GroupMixedFields* part = parts_.data();
    for (; row >= part->shape.out; ++part) row -= part->shape.out;
    return {part, row};
  }

 private:
  std::vector<GroupMixedFields> parts_;
  int64_t out_ = 0;
};

// 16 outputs of a stack; those beyond the last are zeros.
class RowBlock {
 public:
  RowBlock(const Stack& stack, int64_t block) {
    for (int r = 0; r < Order::kOutputs; ++r)
      if (block * Order::kOutputs + r < stack.out()) rows_.push_back(stack.at(block * Order::kOutputs + r));
  }

  // One chunk, its groups given, and its zero points; both zeroed before.
  void pack(const Order& order, int bits, const int16_t* groups, uint8_t* chunk, uint8_t* zeros) const {
    std::vector<uint8_t> codes(static_cast<size_t>(Order::kOutputs * Order::kInputs));
    for (size_t r = 0; r < rows_.size(); ++r)
      for (int slot = 0; slot < order.groups(); ++slot) {
        if (groups[slot] < 0) continue;
        const auto [part, row] = rows_[r];
        const int64_t count = part->shape.end_of(groups[slot]) - part->shape.begin_of(groups[slot]);
        uint8_t* to = codes.data() + static_cast<int>(r) * Order::kInputs + slot * order.group;
        for (int64_t i = 0; i < count; ++i) to[i] = static_cast<uint8_t>(part->code(row, groups[slot], i));
        put_parameters(bits, static_cast<int>(r), slot, *part, row, groups[slot], chunk, zeros);
      }
    pack_mixed_codes(
        order, bits,
        [&](int output, int slot, int i) -> uint32_t {
          return codes[static_cast<size_t>(output * Order::kInputs + slot * order.group + i)];
        },
        chunk);
  }

 private:
  static void put_parameters(int bits, int output, int slot, const GroupMixedFields& part, int64_t row,
                             int64_t g, uint8_t* chunk, uint8_t* zeros) {
    const int block = slot / 4, at = (output % 8 * 4 + slot % 4) * 2 + output / 8;
    uint8_t* scales = chunk + bits * Order::kDigitBytes + block * (bits == 1 ? 256 : 128);
    const uint16_t scale = part.scale(row, g);
    std::memcpy(scales + at * 2, &scale, 2);
    if (bits == 1) {
      const uint16_t mean = part.mean(row, g);
      std::memcpy(scales + 128 + at * 2, &mean, 2);
      return;
    }
    uint8_t* to = zeros + block * Order::zero_block_bytes(bits) + at * bits / 8;
    const uint32_t zero = part.zero(row, g) << at * bits % 8;
    to[0] |= static_cast<uint8_t>(zero);
    if (zero > 0xff) to[1] |= static_cast<uint8_t>(zero >> 8);
  }

  std::vector<std::pair<const GroupMixedFields*, int64_t>> rows_;
};

class GroupMixedGemv final : public Gemv {
 public:
  GroupMixedGemv(const Stack& stack, int multiprocessors, Stream stream)
      : Gemv(stack.out(), stack.shape().in), multiprocessors_(multiprocessors) {
    stream_.order.group = static_cast<int>(stack.shape().group);
    stream_.out = out();
    stream_.in = in();
    const Order& order = stream_.order;
    const MixedChunks chunks(stack.shape(), order.groups());
    for (int bits = 1; bits <= kMostBits; ++bits) {
      const auto count = static_cast<int32_t>(std::ranges::count(chunks.bits, bits));
      stream_.first[bits + 1] = stream_.first[bits] + count;
      stream_.at[bits] = stream_.row_bytes;
      stream_.zeros_at[bits] = stream_.zero_row_bytes;
      stream_.row_bytes += count * order.chunk_bytes(bits);
      stream_.zero_row_bytes += count * order.zero_bytes(bits);
    }
    const int64_t row_blocks = stream_.row_blocks();
    std::vector<uint8_t> packed(static_cast<size_t>(row_blocks * stream_.row_bytes)),
        zeros(static_cast<size_t>(row_blocks * stream_.zero_row_bytes));
    parallel_for(row_blocks, [&](int64_t block) {
      const RowBlock rows(stack, block);
      uint8_t* to = packed.data() + block * stream_.row_bytes;
      uint8_t* zeros_to = zeros.data() + block * stream_.zero_row_bytes;
      for (size_t c = 0; c < chunks.bits.size(); ++c) {
        const int bits = chunks.bits[c];
        rows.pack(order, bits, chunks.groups.data() + c * static_cast<size_t>(order.groups()), to, zeros_to);
        to += order.chunk_bytes(bits);
        zeros_to += order.zero_bytes(bits);
      }
    });
    parts_[0] = uploaded(std::span<const uint8_t>(packed), stream);
    parts_[1] = uploaded(std::span<const uint8_t>(zeros), stream);
    parts_[2] = uploaded(std::span<const int16_t>(chunks.groups), stream);
    point();
  }

  bool fits() const { return mixed_launch(stream_, 1, multiprocessors_).depth > 0; }

  int64_t bytes() const override { return parts_[0].size() + parts_[1].size() + parts_[2].size(); }
  int64_t bytes_read(std::span<const LevelCounts>) const override { return bytes(); }

  std::unique_ptr<Gemv> clone(Stream stream) const override {
    auto other = std::unique_ptr<GroupMixedGemv>(new GroupMixedGemv(out(), in(), multiprocessors_));
    other->stream_ = stream_;
    for (size_t i = 0; i < std::size(parts_); ++i) other->parts_[i] = copy_of(parts_[i], stream);
    other->point();
    return other;
  }

  // There is one level, and no channel is left out.
  void run(const GemvInput& input, std::span<const GemvReading>, const GemvOutput& output,
           Stream stream) override {
    group_mixed_gemv(stream_, input, output, multiprocessors_, stream);
  }

 private:
  GroupMixedGemv(int64_t out, int64_t in, int multiprocessors)
      : Gemv(out, in), multiprocessors_(multiprocessors) {}

  void point() {
    stream_.chunks = parts_[0].as<uint8_t>();
    stream_.zeros = parts_[1].as<uint8_t>();
    stream_.groups = parts_[2].as<int16_t>();
  }

  int multiprocessors_;
  MixedStream stream_;
  Bytes parts_[3];  // chunks, zero points, the list of groups
};

std::unique_ptr<Gemv> make(GemvLayers layers, Stream stream) {
  const DeviceProperties device = device_properties();
  const Stack stack(layers);
  const int64_t group = stack.shape().group;
  const bool has_order = group == 32 || group == 64 || group == 128;
  if (device.major < 9 || !has_order || !stack.alike() || stack.shape().groups() > INT16_MAX) return nullptr;
  auto gemv = std::make_unique<GroupMixedGemv>(stack, device.multiprocessors, stream);
  return gemv->fits() ? std::move(gemv) : nullptr;
}

const RegisterGemv registered{"group_mixed", "streamed_widths",
                              "groups of 32, 64 or 128, chunks of one width each; integer tensor cores",
                              make};

}  // namespace

}  // namespace grinqh::cuda
