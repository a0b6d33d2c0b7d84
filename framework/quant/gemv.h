// Products of a packed layer with a few tokens on the CPU, y = x W^T, as decoding needs them: the weights
// stream from memory once, in an order that the kernel chose when it was made. (framework/cuda/gemv.h is the
// GPU's.)
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/matrix.h"
#include "quant/precision.h"
#include "quant/quantized_linear.h"

namespace grinqh {

constexpr int64_t kMaxGemvTokens = 8;

class Gemv {
 public:
  virtual ~Gemv() = default;

  int64_t out() const { return out_; }
  int64_t in() const { return in_; }
  // Memory of its own: weights in the kernel's order, and metadata.
  virtual int64_t bytes() const = 0;
  // Of weights and metadata that a call must read; counts: of channels a level, as a single token reads them.
  virtual int64_t bytes_read(const LevelCounts& counts) const = 0;
  // The largest ||y - y'|| / ||y'|| that is no error; y' in float64 on the dequantized weights.
  virtual double tolerance() const { return 2e-3; }
  // Same weights at other addresses: to time what no cache holds.
  virtual std::unique_ptr<Gemv> clone() const = 0;

  // y = x W^T. x: [tokens, in], y: [tokens, out], tokens <= kMaxGemvTokens; levels that the layer stores.
  // Equal rows of x and levels give equal bits, whatever the other tokens and the number of threads are.
  virtual void run(Matrix<const float> x, const Precision& precision, Matrix<float> y) const = 0;

 protected:
  Gemv(int64_t out, int64_t in) : out_(out), in_(in) {}
  // That what run() was given fits together.
  void check_call(Matrix<const float> x, const Precision& precision, Matrix<float> y) const;

 private:
  int64_t out_, in_;
};

// Null if the kernel cannot take this layer (its shape, or an option of its layout).
using MakeGemv = std::function<std::unique_ptr<Gemv>(const QuantizedLinear&)>;

struct GemvKernel {
  enum class Grades : uint8_t { no, yes };
  std::string layout, name, summary;
  MakeGemv make;
  Grades grades = Grades::yes;  // no: it reads all channels in full, and refuses to grade them
};

// Not in the table of quant/kernel_table.h, whose kernels are exact in float32 and take any number of tokens.
struct RegisterGemv {
  RegisterGemv(std::string_view layout, std::string_view name, std::string_view summary, MakeGemv make,
               GemvKernel::Grades grades = GemvKernel::Grades::yes);
};

// In the order of their names.
std::vector<GemvKernel> gemv_kernels(std::string_view layout);
// By the first kernel that takes the layer; graded: among those that grade. Null if there is none.
std::unique_ptr<Gemv> make_gemv(const QuantizedLinear& layer, bool graded);
// "layout/name" of those that were registered twice; main() reports them, as Registry's.
const std::vector<std::string>& gemv_conflicts();

// The instruction sets that this processor runs and kernels are built for, the best first; a result may
// differ between them in its last bits.
std::vector<std::string> gemv_instruction_sets();
// Restricts what the kernels use to one of these; empty: the best again. For tests and comparisons, while no
// kernel runs.
void set_gemv_instruction_set(std::string_view name);

}  // namespace grinqh
