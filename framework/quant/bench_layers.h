// Layers to measure kernels on, of any shape and without a method: random codes, scales of the size that
// trained weights have. Every layout brings its own (kernels/<layout>/bench.cpp).
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/matrix.h"
#include "quant/channel_grading.h"
#include "quant/quantized_linear.h"

namespace grinqh {

// How a bench reads such a layer at a given number of bits.
enum class BenchReading : uint8_t {
  whole,   // the layer is made with as many; everything is read
  level,   // one layer for all; every channel is read at the level of that number
  graded,  // one layer for all; channels are read at levels by magnitude, as many on average
};

struct BenchLayers {
  std::string layout;
  std::string variant;  // what is special, "group 64"; empty: the layout as it is mostly used
  bool usual = true;    // measured unless variants are asked for
  std::string summary = {};
  BenchReading reading = BenchReading::whole;
  std::vector<Level> levels = {};  // of BenchReading::graded, ascending
  std::vector<double> bits = {};   // code bits a weight, on average
  std::function<std::unique_ptr<QuantizedLinear>(int64_t out, int64_t in, double bits, uint64_t seed)> make =
      nullptr;

  // "nested/graded".
  std::string name() const { return variant.empty() ? layout : layout + "/" + variant; }
};

struct RegisterBenchLayers {
  explicit RegisterBenchLayers(BenchLayers layers);
};

// In the order of their names.
const std::vector<BenchLayers>& bench_layers();

// Inputs as decoding sees them, normal with a size of its own for every channel, exact in bfloat16. [tokens,
// in]
MatrixBuffer<float> bench_inputs(int64_t tokens, int64_t in, uint64_t seed);

// Grading by one threshold a step, the same for all channels, at which the mean level of x's channels comes
// nearest to `bits`; thresholds stand to each other as errors of 4^-level make them.
ChannelGrading bench_grading(Matrix<const float> x, const std::vector<Level>& levels, double bits);

// Random parts of layers, made by all threads. Codes of `bits` bits in the low ones of each byte.
MatrixBuffer<uint8_t> random_codes(int64_t rows, int64_t cols, int bits, uint64_t seed);
// float16, uniform in [low, high).
MatrixBuffer<uint16_t> random_halves(int64_t rows, int64_t cols, double low, double high, uint64_t seed);

// Standard deviation of the weights that random scales stand for.
inline constexpr double kBenchDeviation = 0.02;

}  // namespace grinqh
