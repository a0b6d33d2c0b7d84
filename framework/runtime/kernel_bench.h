// Timing of decoding kernels, products of a packed layer with a few tokens, on any device: what `bench
// kernels` asks of it.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/device.h"
#include "core/matrix.h"
#include "quant/channel_grading.h"
#include "quant/precision.h"
#include "quant/quantized_linear.h"

namespace grinqh {

// One product to be timed. What it points to outlives the measurement.
struct BenchTask {
  Matrix<const float> x;  // [tokens, in], exact in bfloat16
  Level level = kFullLevel;
  const ChannelGrading* grading = nullptr;  // instead of `level`: applied to x within the timed call
  Matrix<const Level> graded = {};          // what it decides. [tokens, in]
  // Channels by the highest level that a token reads them at: what no kernel can avoid reading.
  LevelCounts counts = {};
};

struct TimedSamples {
  std::vector<double> microseconds;  // of a call, one value a repetition
  double quantile(double share) const;
};

// A layer in one kernel's order.
class BenchedKernel {
 public:
  virtual ~BenchedKernel() = default;
  // The largest relative error that the kernel answers for (quant/product_error.h).
  virtual double tolerance() const = 0;
  virtual int64_t bytes_read(const LevelCounts& counts) const = 0;
  virtual MatrixBuffer<float> product(const BenchTask& task) = 0;  // [tokens, out]
  // Calls one after the other on copies of the weights, so many that no cache holds what is read. Whatever
  // lies between two calls counts.
  virtual TimedSamples time(const BenchTask& task, int repetitions) = 0;
};

struct BenchedKernelName {
  std::string name, summary;
  bool grades = true;  // takes tasks that grade channels
};

class KernelBench {
 public:
  virtual ~KernelBench() = default;
  virtual std::string device() const = 0;  // for the record, and without commas
  // In the order of their names.
  virtual std::vector<BenchedKernelName> kernels(std::string_view layout) const = 0;
  // Null if the kernel cannot take the layer.
  virtual std::unique_ptr<BenchedKernel> make(std::string_view layout, std::string_view kernel,
                                              const QuantizedLinear& layer) = 0;
  // Microseconds of the fastest kernel that reads so many bytes and does nothing else, under the same
  // conditions as time(). early: also of those that begin before the one ahead of them has ended, where the
  // device has such.
  virtual double roof(int64_t bytes, int repetitions, bool early) = 0;
  // Seconds that the device's library takes for y = x w^T by itself, x: [tokens, in], w: [out, in], random,
  // in the arithmetic that the bench was made for.
  virtual double library_product(int64_t tokens, int64_t in, int64_t out) = 0;
};

std::unique_ptr<KernelBench> make_kernel_bench(const DeviceChoice& device);

}  // namespace grinqh
