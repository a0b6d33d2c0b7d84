// grinqh bench gemm: rate of the products of the device's library (OpenBLAS, cuBLASLt).
#include <algorithm>

#include <fmt/format.h>

#include "cli/bench_options.h"
#include "core/error.h"
#include "runtime/kernel_bench.h"

namespace grinqh {
namespace {

namespace po = boost::program_options;

int bench_gemm(const std::vector<std::string>& words) {
  Arguments arguments(
      "bench gemm [--shapes NxK,...] [--tokens T,...] [--repetitions R] [--threads N] [--device D] "
      "[--arithmetic A] [--format text|csv|json]");
  arguments.options()("shapes", po::value<std::string>()->default_value("4096x4096,28672x4096,4096x14336"),
                      "outputs x inputs")("tokens", po::value<std::string>()->default_value("1,16,256,2048"),
                                          "rows that are multiplied")(
      "repetitions", po::value<int64_t>()->default_value(5), "of each timing; the median counts")(
      "threads", po::value<int>()->default_value(0), "of the CPU; 0: all that the machine offers");
  add_device_options(arguments);
  add_format_option(arguments);
  if (!arguments.parse(words)) return 0;
  const DeviceChoice device = chosen_device(arguments);
  const std::vector<ProductShape> all_shapes =
      shapes(arguments, "shapes", arguments.get<std::string>("shapes"));
  const std::vector<int64_t> all_tokens = integers(arguments, "tokens", 1, 1 << 17);
  const int64_t repetitions = integer(arguments, "repetitions", 1, 1000);
  const std::string format = chosen_format(arguments);
  apply_threads(arguments);
  const auto bench = make_kernel_bench(device);
  FigureRows rows(format);
  for (const ProductShape& shape : all_shapes)
    for (const int64_t tokens : all_tokens) {
      TimedSamples samples;
      for (int64_t i = 0; i < repetitions; ++i)
        samples.microseconds.push_back(bench->library_product(tokens, shape.in, shape.out) * 1e6);
      const double us = samples.quantile(0.5);
      const double operations =
          2.0 * static_cast<double>(tokens) * static_cast<double>(shape.in) * static_cast<double>(shape.out);
      rows.add({{"device", bench->device()},
                {"arithmetic",
                 device.device == Device::cpu || device.arithmetic == Arithmetic::float32 ? "fp32" : "bf16"},
                {"N", shape.out},
                {"K", shape.in},
                {"tokens", tokens},
                {"us_median", us},
                {"tflops", operations / us * 1e-6}});
    }
  rows.finish();
  return 0;
}

const RegisterCommand command{"bench gemm", "rate of the library's products for shapes and token counts",
                              bench_gemm};

}  // namespace
}  // namespace grinqh
