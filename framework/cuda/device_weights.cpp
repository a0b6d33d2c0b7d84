#include "cuda/device_weights.h"

#include <map>
#include <utility>

#include "core/error.h"
#include "quant/kernel_table.h"

namespace grinqh::cuda {

namespace {

std::map<std::string, Upload, std::less<>>& uploads() {
  static std::map<std::string, Upload, std::less<>> table;
  return table;
}

}  // namespace

void DeviceWeights::dequantize(Level level, Level minus, View out, Stream stream) const {
  check(out.rows == out_ && out.cols == in_ && minus <= level,
        "dequantize: the shape, or the order of levels");
  if (out.rows == 0 || out.cols == 0) return;
  if (level > minus) return decode(level, minus, out, stream);
  const auto element = static_cast<size_t>(size_of(out.type));
  check_call(
      cudaMemset2DAsync(out.data, static_cast<size_t>(out.stride) * element, 0,
                        static_cast<size_t>(out.cols) * element, static_cast<size_t>(out.rows), stream),
      "cudaMemset2DAsync");
}

RegisterUpload::RegisterUpload(std::string_view layout, Upload upload) {
  RegisterKernel({std::string(layout), Device::cuda, "levels",
                  "decoded level by level on the device, multiplied by cuBLASLt", nullptr});
  check(uploads().emplace(layout, std::move(upload)).second, "two uploads of one layout");
}

std::unique_ptr<DeviceWeights> upload(const QuantizedLinear& layer, Stream stream) {
  const auto found = uploads().find(layer.layout());
  if (found == uploads().end()) fail("layout '{}' has no kernels for CUDA devices", layer.layout());
  return found->second(layer, stream);
}

}  // namespace grinqh::cuda
