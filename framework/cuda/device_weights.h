// A quantized layer in device memory, as its layout uploaded it.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "cuda/types.h"
#include "quant/quantized_linear.h"

namespace grinqh::cuda {

class DeviceWeights {
 public:
  virtual ~DeviceWeights() = default;
  // out = D_level - D_minus, [out, in]: exact in float32, rounded once if `out` is bf16. minus = 0: D_level
  // itself. Levels above 0 are ones that the layer stores; minus <= level. Rows of `out` that do not begin
  // at multiples of 16 bytes are right too, but slow.
  void dequantize(Level level, Level minus, View out, Stream stream) const;
  virtual int64_t bytes() const = 0;  // of device memory

 protected:
  DeviceWeights(int64_t out, int64_t in) : out_(out), in_(in) {}
  int64_t out() const { return out_; }
  int64_t in() const { return in_; }

 private:
  // The same where the result is neither empty nor zero throughout: minus < level.
  virtual void decode(Level level, Level minus, View out, Stream stream) const = 0;

  int64_t out_, in_;
};

// Copies a layer's buffers to the current device.
using Upload = std::function<std::unique_ptr<DeviceWeights>(const QuantizedLinear&, Stream)>;

struct RegisterUpload {
  RegisterUpload(std::string_view layout, Upload upload);
};

// Error if the layout has none.
std::unique_ptr<DeviceWeights> upload(const QuantizedLinear& layer, Stream stream);

}  // namespace grinqh::cuda
