#include "experiment/provenance.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <fstream>

#include "core/gemm.h"
#include "core/parallel.h"
#include "revision.h"
#include "runtime/backend.h"

namespace grinqh {

namespace {

std::string processor() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);)
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  return "unknown";
}

std::string host() {
  char name[256] = {};
  return gethostname(name, sizeof(name) - 1) == 0 ? name : "unknown";
}

}  // namespace

std::map<std::string, std::string> environment_provenance(const DeviceChoice& device) {
  return {
      {"version", GRINQH_VERSION},
      {"commit", GRINQH_COMMIT},
      {"dirty", GRINQH_DIRTY ? "true" : "false"},
      {"host", host()},
      {"processor", processor()},
      {"compiler", __VERSION__},
      {"libraries", blas_version()},
      {"threads", std::to_string(threads())},
      {"device", device.device == Device::cpu ? processor() : backend_of(device.device).description(device)},
      {"started_utc", fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::chrono::system_clock::now()))}};
}

}  // namespace grinqh
