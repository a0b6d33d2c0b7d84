// Which function multiplies by a layer: a kernel belongs to a layout and a device, never to a method.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/device.h"
#include "quant/quantized_linear.h"

namespace grinqh {

struct ForwardArgs {
  Matrix<const float> x;  // [tokens, in]
  Matrix<float> y;        // [tokens, out], overwritten; without bias
  Precision precision;
};

// Null for the kernels of a device that keeps activations to itself: its module calls them by its own means.
using ForwardKernel = void (*)(const QuantizedLinear&, const ForwardArgs&);

struct Kernel {
  std::string layout;
  Device device;
  std::string name;
  std::string summary;
  ForwardKernel forward;
};

struct RegisterKernel {
  explicit RegisterKernel(Kernel kernel);
};

const std::vector<Kernel>& kernels();

// The kernel for a layout on a device, the last registered if there are several; Error if there is none (no
// other kernel takes its place). `name` chooses a particular one.
const Kernel& find_kernel(std::string_view layout, Device device, std::string_view name = {});

}  // namespace grinqh
