// Products of a packed layer with a few tokens, y = x W^T, as decoding needs them: the weights stream from
// memory once, in an order that the kernel chose when they were uploaded.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cuda/gemv_operands.h"
#include "cuda/grading.h"
#include "quant/precision.h"
#include "quant/quantized_linear.h"

namespace grinqh::cuda {

// What tokens read: all channels at one level, or every channel at the level its activation earns.
struct GemvReading {
  Level level = kFullLevel;              // one that the layer stores, above 0
  const GradingRule* grading = nullptr;  // without budget; every token grades for itself
  // Where `level` lies on the device instead, read when the product runs: a schedule changes it between
  // replays of one captured graph. What a layer does not store means its next level below, or its lowest.
  // For layouts whose kernels say so; the others refuse it.
  const uint8_t* device_level = nullptr;
};

// Of one layer, or of several that have their input in common (q, k and v; gate and up): their outputs lie
// one after another.
class Gemv {
 public:
  virtual ~Gemv() = default;

  int64_t out() const { return out_; }
  int64_t in() const { return in_; }
  // Device memory: weights in the kernel's order, metadata, workspace.
  virtual int64_t bytes() const = 0;
  // Of weights and metadata that a call must read; counts: one a layer, of channels a level, as a single
  // token reads them.
  virtual int64_t bytes_read(std::span<const LevelCounts> counts) const = 0;
  // The largest ||y - y'|| / ||y'|| that is no error; y' in float64 on the dequantized weights.
  virtual double tolerance() const { return 2e-3; }
  // Same weights at other addresses: to time what no cache holds.
  virtual std::unique_ptr<Gemv> clone(Stream stream) const = 0;

  // y = x W^T for up to kMaxGemvTokens tokens; readings: one a layer. Allocates nothing and waits for
  // nothing, so that it can be captured in a graph; equal calls give equal bits. Calls of one Gemv must not
  // overlap: its workspace is its own.
  virtual void run(const GemvInput& input, std::span<const GemvReading> readings, const GemvOutput& output,
                   Stream stream) = 0;

 protected:
  Gemv(int64_t out, int64_t in) : out_(out), in_(in) {}

 private:
  int64_t out_, in_;
};

// Layers of one layout with equally many inputs. Null if the kernel cannot take them, or not together
// (shapes, options of the layout).
using GemvLayers = std::span<const QuantizedLinear* const>;
using MakeGemv = std::function<std::unique_ptr<Gemv>(GemvLayers, Stream)>;

// Kernels of quantized layers by the layers that they take together: packing weights anew takes seconds.
class GemvStore {
 public:
  // The layout's first kernel that takes the layers, and readings that grade channels if they are to be
  // `graded`; or null.
  std::shared_ptr<Gemv> kernel_of(GemvLayers layers, bool graded, Stream stream);

 private:
  using Key = std::pair<std::vector<const QuantizedLinear*>, bool>;
  std::map<Key, std::shared_ptr<Gemv>> made_;
};

struct GemvKernel {
  enum class Grades : uint8_t { no, yes };

  std::string layout, name, summary;
  MakeGemv make;
  Grades grades = Grades::yes;  // no: it reads all channels in full, and refuses to grade them
};

// Not in the table of quant/kernel_table.h, from which results take the name of the kernel that ran: nothing
// that writes results runs these yet.
struct RegisterGemv {
  RegisterGemv(std::string_view layout, std::string_view name, std::string_view summary, MakeGemv make,
               GemvKernel::Grades grades = GemvKernel::Grades::yes);
};

// In the order of their names.
std::vector<GemvKernel> gemv_kernels(std::string_view layout);

}  // namespace grinqh::cuda
