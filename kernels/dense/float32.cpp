// The yardstick of CPU kernels: weights in float32, row by row, read once at the memory's rate. For `bench
// kernels` alone; it is no layout of its own.
#include <cstring>

#include "core/parallel.h"
#include "quant/bench_layers.h"
#include "quant/gemv.h"

namespace grinqh {
namespace {

constexpr Level kWhole = 16;  // names the only level; a weight is read with its 32 bits

class FloatLinear final : public QuantizedLinear {
 public:
  FloatLinear(int64_t out, int64_t in, uint64_t seed) : weight_(out, in) {
    const double reach = 1.75 * kBenchDeviation;
    const MatrixBuffer<uint8_t> bytes = random_codes(out, in, 8, seed);
    for (int64_t i = 0; i < weight_.size(); ++i)
      weight_.data()[i] = static_cast<float>(reach / 128 * (bytes.data()[i] - 127.5));
  }

  int64_t in() const override { return weight_.cols(); }
  int64_t out() const override { return weight_.rows(); }
  std::string_view layout() const override { return "dense32"; }
  std::span<const Level> levels() const override { return {&kWhole, 1}; }
  std::vector<NamedBuffer> buffers() const override {
    return {{"weights", Role::codes,
             std::as_bytes(std::span(weight_.data(), static_cast<size_t>(weight_.size())))}};
  }
  Json attributes() const override { return {{"out", out()}, {"in", in()}}; }
  BitCount read_bits(const LevelCounts&) const override { return stored_bits(); }
  void dequantize_rows(std::span<const Level>, int64_t begin, int64_t end, Matrix<float> w) const override {
    for (int64_t row = begin; row < end; ++row) std::copy_n(weight_.row(row), in(), w.row(row - begin));
  }

 private:
  MatrixBuffer<float> weight_;
};

float dot(const float* a, const float* b, int64_t count) {
  constexpr int kSums = 32;  // so that loads, not additions, are what is waited for
  float sums[kSums] = {}, sum = 0;
  int64_t i = 0;
  for (; i + kSums <= count; i += kSums)
    for (int j = 0; j < kSums; ++j) sums[j] += a[i + j] * b[i + j];
  for (; i < count; ++i) sum += a[i] * b[i];
  for (const float each : sums) sum += each;
  return sum;
}

class FloatGemv final : public Gemv {
 public:
  explicit FloatGemv(MatrixBuffer<float> weight)
      : Gemv(weight.rows(), weight.cols()), weight_(std::move(weight)) {}

  int64_t bytes() const override { return weight_.size() * 4; }
  int64_t bytes_read(const LevelCounts&) const override { return bytes(); }
  double tolerance() const override { return 1e-5; }
  std::unique_ptr<Gemv> clone() const override {
    MatrixBuffer<float> copy(out(), in());
    std::copy_n(weight_.data(), weight_.size(), copy.data());
    return std::make_unique<FloatGemv>(std::move(copy));
  }
  void run(Matrix<const float> x, const Precision&, Matrix<float> y) const override {
    constexpr int64_t kRows = 64;  // of a task
    parallel_for((out() + kRows - 1) / kRows, [&](int64_t task) {
      for (int64_t row = task * kRows; row < std::min((task + 1) * kRows, out()); ++row)
        for (int64_t t = 0; t < x.rows; ++t) y(t, row) = dot(weight_.row(row), x.row(t), in());
    });
  }

 private:
  MatrixBuffer<float> weight_;
};

const RegisterGemv kernel{"dense32", "f32", "float32 weights, row by row: the yardstick",
                          [](const QuantizedLinear& layer) -> std::unique_ptr<Gemv> {
                            return std::make_unique<FloatGemv>(layer.dequantize());
                          }};

const RegisterBenchLayers registered{
    {"dense32",
     "",
     true,
     "float32",
     BenchReading::whole,
     {},
     {32},
     [](int64_t out, int64_t in, double, uint64_t seed) -> std::unique_ptr<QuantizedLinear> {
       return std::make_unique<FloatLinear>(out, in, seed);
     }}};

}  // namespace
}  // namespace grinqh
