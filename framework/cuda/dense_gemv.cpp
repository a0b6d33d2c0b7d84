#include "cuda/dense_gemv.h"
#include "cuda/device_properties.h"

#include "cuda/dense_gemv_kernel.h"
#include "cuda/memory.h"

namespace grinqh::cuda {

namespace {

static_assert(std::size(DenseRows().parts) == kMaxDenseParts);

class DenseGemv final : public Gemv {
 public:
  DenseGemv(const DenseRows& rows, int multiprocessors)
      : Gemv(rows.out, rows.in), rows_(rows), multiprocessors_(multiprocessors) {}

  int64_t bytes() const override { return copy_.size(); }
  int64_t bytes_read(std::span<const LevelCounts>) const override { return out() * in() * 2; }

  // The only one that owns what it reads.
  std::unique_ptr<Gemv> clone(Stream stream) const override {
    auto other = std::make_unique<DenseGemv>(rows_, multiprocessors_);
    int64_t size = 0, begin = 0;
    for (int p = 0; p < rows_.count; begin = rows_.parts[p++].end)
      size += (rows_.parts[p].end - begin) * rows_.parts[p].stride * 2;
    other->copy_ = Bytes(size, stream);
    auto* to = other->copy_.as<uint16_t>();
    begin = 0;
    for (int p = 0; p < rows_.count; begin = rows_.parts[p++].end) {
      const DenseRows::Part& part = rows_.parts[p];
      const int64_t elements = (part.end - begin) * part.stride;
      // The last row's padding need not be the caller's to read.
      const int64_t owned = elements - part.stride + in();
      check_call(
          cudaMemcpyAsync(to, part.data, static_cast<size_t>(owned) * 2, cudaMemcpyDeviceToDevice, stream),
          "cudaMemcpyAsync");
      fill_zero(to + owned, (elements - owned) * 2, stream);
      other->rows_.parts[p].data = to;
      to += elements;
    }
    return other;
  }

  // Every weight is read.
  void run(const GemvInput& input, std::span<const GemvReading>, const GemvOutput& output,
           Stream stream) override {
    dense_gemv(rows_, input, output, multiprocessors_, stream);
  }

 private:
  DenseRows rows_;
  int multiprocessors_;
  Bytes copy_;
};

}  // namespace

std::unique_ptr<Gemv> make_dense_gemv(std::span<const ConstView> weights) {
  const DeviceProperties device = device_properties();
  if (device.major < 9 || weights.empty() || weights.size() > kMaxDenseParts) return nullptr;
  DenseRows rows;
  rows.in = weights.front().cols;
  for (const ConstView& part : weights) {
    if (part.type != Type::bf16 || part.cols != rows.in || part.rows == 0) return nullptr;
    rows.out += part.rows;
    rows.parts[rows.count++] = {static_cast<const uint16_t*>(part.data), part.stride, rows.out};
  }
  return std::make_unique<DenseGemv>(rows, device.multiprocessors);
}

}  // namespace grinqh::cuda
