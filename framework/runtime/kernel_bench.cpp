#include "runtime/kernel_bench.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "runtime/backend.h"
#include "runtime/host_kernel_bench.h"

namespace grinqh {

double TimedSamples::quantile(double share) const {
  check(!microseconds.empty(), "TimedSamples: there are none");
  std::vector<double> sorted = microseconds;
  std::ranges::sort(sorted);
  const double place = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(place);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return std::lerp(sorted[below], sorted[above], place - static_cast<double>(below));
}

std::unique_ptr<KernelBench> make_kernel_bench(const DeviceChoice& device) {
  if (device.device == Device::cpu) return make_host_kernel_bench();
  return backend_of(device.device).make_kernel_bench(device);
}

}  // namespace grinqh
