// grinqh bench quantize: what it takes to quantize a model by one method, part by part.
#include <sys/resource.h>

#include <chrono>

#include <fmt/format.h>

#include "cli/bench_options.h"
#include "core/error.h"
#include "experiment/prepare.h"
#include "experiment/rehearsal.h"
#include "experiment/single_method.h"
#include "runtime/backend.h"
#include "runtime/decoder.h"
#include "runtime/kernel_bench.h"

namespace grinqh {
namespace {

namespace po = boost::program_options;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

int64_t host_peak_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return int64_t{usage.ru_maxrss} * 1024;
}

// A method by its keys, or by its quantizer's name alone.
MethodSpec read_method(const std::string& text) {
  const bool keys = text.ends_with(".toml") || text.find('=') != std::string::npos;
  return read_single_method(keys ? text : fmt::format("quantizer = \"{}\"", text));
}

int bench_quantize(const std::vector<std::string>& words) {
  Arguments arguments(
      "bench quantize --model DIR|PRESET --method NAME|TOML [--calibration FILE] [--windows 128] "
      "[--context 1024] [--seed N] [--threads N] [--device D] [--arithmetic A] [--format text|csv|json]");
  arguments.options()("model", po::value<std::string>(), "a Hugging Face model folder or a preset")(
      "method", po::value<std::string>(),
      "a quantizer with its defaults, keys of a [[methods]] table, or a .toml file")(
      "calibration", po::value<std::string>()->default_value("self"),
      "text for methods that need one; self: drawn from the model")(
      "windows", po::value<int64_t>()->default_value(128), "of the calibration")(
      "context", po::value<int64_t>()->default_value(1024), "tokens of a window")(
      "seed", po::value<int64_t>()->default_value(0), "of windows drawn from the model")(
      "threads", po::value<int>()->default_value(0), "of the CPU; 0: all that the machine offers");
  add_device_options(arguments);
  add_format_option(arguments);
  if (!arguments.parse(words)) return 0;
  const DeviceChoice device = chosen_device(arguments);
  QuickCalibration calibration{.text = arguments.get<std::string>("calibration")};
  calibration.windows = integer(arguments, "windows", 1, 1 << 20);
  calibration.context = integer(arguments, "context", 1, 1 << 20);
  calibration.seed = static_cast<uint64_t>(integer(arguments, "seed", 0, INT64_MAX));
  const std::string format = chosen_format(arguments);
  apply_threads(arguments);
  const MethodSpec method = read_method(arguments.get<std::string>("method"));
  rehearse(method);
  const AcceleratorScope scope(make_accelerator(device));

  const auto begin = Clock::now();
  const Model model = load_model(arguments.get<std::string>("model"));
  if (calibration.context > model.config.max_context)
    bad_input("--context {}: allowed is 1 to {}, the model's max_position_embeddings", calibration.context,
              model.config.max_context);
  const auto transformer = make_transformer(model, device);
  transformer->synchronize();
  const double load = seconds_since(begin);
  const SingleMethod quantized(method, *transformer, calibration);
  const double peak_device =
      device.device == Device::cpu ? 0 : static_cast<double>(backend_of(device.device).peak_bytes(device));
  // Until the first token can be decoded: weights in the order of the device's kernels.
  const auto pack_begin = Clock::now();
  const auto linears = quantized.linears();
  const auto decoder = quantized.subject().make_decoder(*linears, {1, 2});
  quantized.subject().synchronize();
  const double pack = seconds_since(pack_begin);
  const MethodSeconds& seconds = quantized.seconds();
  FigureRows rows(format);
  rows.add({{"model", model.name()},
            {"method", method.quantizer.name},
            {"options", method.label},
            {"device", make_kernel_bench(device)->device()},
            {"windows", method.calibrates() ? Json(calibration.windows) : Json()},
            {"context", method.calibrates() ? Json(calibration.context) : Json()},
            {"load_seconds", load},
            {"windows_seconds", seconds.windows},
            {"transform_seconds", seconds.transform},
            {"calibrate_seconds", seconds.calibrate},
            {"quantize_seconds", seconds.quantize},
            {"policy_seconds", seconds.policy},
            {"pack_seconds", pack},
            {"total_seconds", seconds_since(begin)},
            {"stored_bits", quantized.model().stored_bits()},
            {"peak_host_gib", static_cast<double>(host_peak_bytes()) / (1 << 30)},
            {"peak_device_gib", device.device == Device::cpu ? Json() : Json(peak_device / (1 << 30))}});
  rows.finish();
  return 0;
}

const RegisterCommand command{"bench quantize", "seconds and memory of quantizing a model, part by part",
                              bench_quantize};

}  // namespace
}  // namespace grinqh
