// grinqh bench kernels: time of decoding products of every layout beside the time that reading the same bytes
// takes.
#include <algorithm>
#include <optional>

#include <fmt/format.h>

#include "cli/bench_options.h"
#include "cli/kernel_rows.h"
#include "core/error.h"
#include "core/text.h"
#include "quant/bench_layers.h"
#include "quant/product_error.h"
#include "revision.h"
#include "runtime/backend.h"
#include "runtime/kernel_bench.h"

namespace grinqh {
namespace {

namespace po = boost::program_options;

constexpr int64_t kMostTokens = 8;
constexpr uint64_t kSeed = 7;

// What the command is asked for.
struct Request {
  DeviceChoice device;
  std::vector<std::string> layouts, kernels;  // patterns
  std::vector<ProductShape> shapes;
  std::vector<double> bits;  // none: all
  std::vector<int64_t> batches;
  int repetitions = 15;
  bool early_roof = false;
  std::string format;

  bool wants_kernel(const std::string& name) const {
    return std::ranges::any_of(kernels,
                               [&](const std::string& pattern) { return glob_match(pattern, name); });
  }
  bool wants(const BenchLayers& layers) const {
    return std::ranges::any_of(layouts, [&](const std::string& pattern) {
      return pattern.find('/') == std::string::npos ? layers.usual && glob_match(pattern, layers.layout)
                                                    : glob_match(pattern, layers.name());
    });
  }
  bool wants_bits(double each) const {
    return bits.empty() ||
           std::ranges::any_of(bits, [&](double wanted) { return std::abs(wanted - each) < 1e-6; });
  }
};

// Every pattern means something that can be measured here.
void check_names(const Arguments& arguments, const Request& request, const KernelBench& bench) {
  std::vector<std::string> names, here;
  for (const BenchLayers& layers : bench_layers()) {
    names.push_back(layers.name());
    if (!bench.kernels(layers.layout).empty()) here.push_back(layers.name());
  }
  for (const std::string& pattern : request.layouts) {
    Request one;
    one.layouts = {pattern};
    const auto wanted = [&](const BenchLayers& layers) { return one.wants(layers); };
    if (std::ranges::none_of(bench_layers(), wanted))
      arguments.refuse("--layouts: " + unknown_name("layout", pattern, names));
    if (std::ranges::none_of(bench_layers(), [&](const BenchLayers& layers) {
          return wanted(layers) && !bench.kernels(layers.layout).empty();
        }))
      arguments.refuse(fmt::format("--layouts '{}': no decoding kernel on {}; there are some for {}", pattern,
                                   bench.device(), join(here, ", ")));
  }
  std::vector<std::string> kernels;
  for (const BenchLayers& layers : bench_layers())
    if (request.wants(layers))
      for (const BenchedKernelName& kernel : bench.kernels(layers.layout)) kernels.push_back(kernel.name);
  for (const std::string& pattern : request.kernels)
    if (std::ranges::none_of(kernels, [&](const std::string& name) { return glob_match(pattern, name); })) {
      std::ranges::sort(kernels);
      kernels.erase(std::unique(kernels.begin(), kernels.end()), kernels.end());
      arguments.refuse("--kernels: " + unknown_name("kernel of these layouts", pattern, kernels));
    }
}

// One way to read one layer: the task, and what it is compared with.
struct Case {
  Case(const BenchLayers& layers, const QuantizedLinear& layer, double bits, int64_t tokens)
      : x(bench_inputs(tokens, layer.in(), kSeed)), task{x.view()} {
    if (layers.reading == BenchReading::graded) {
      grading = bench_grading(x, layers.levels, bits);
      levels = MatrixBuffer<Level>(tokens, layer.in());
      const std::vector<Step> steps(static_cast<size_t>(tokens), Step{Phase::decode});
      grade_channels(*grading, steps, x, levels);
      task.grading = &*grading;
      task.graded = levels.view();
      std::vector<Level> highest(static_cast<size_t>(layer.in()), 0);
      for (int64_t t = 0; t < tokens; ++t) {
        code_bits += code_bits_of(layer, LevelCounts::of(levels.view().row_span(t), layer.levels()));
        for (size_t i = 0; i < highest.size(); ++i) highest[i] = std::max(highest[i], levels.row(t)[i]);
      }
      code_bits /= static_cast<double>(tokens);
      task.counts = LevelCounts::of(highest, layer.levels());
    } else {
      task.level = layers.reading == BenchReading::level ? static_cast<Level>(bits) : layer.full_level();
      task.counts = LevelCounts::uniform(task.level, layer.in());
      code_bits = code_bits_of(layer, task.counts);
    }
    exact = exact_product(layer, {task.level, task.graded}, x);
  }
  Case(const Case&) = delete;

  static double code_bits_of(const QuantizedLinear& layer, const LevelCounts& counts) {
    return static_cast<double>(layer.read_bits(counts).codes()) / static_cast<double>(layer.weights());
  }

  MatrixBuffer<float> x;
  std::optional<ChannelGrading> grading;
  MatrixBuffer<Level> levels;
  BenchTask task;
  MatrixBuffer<double> exact;
  double code_bits = 0;
};

class Sweep {
 public:
  Sweep(const Request& request, KernelBench& bench) : request_(request), bench_(bench) {
    if (request.format == "csv") fmt::print("{}\n", kernel_csv_header());
    if (request.format == "text")
      fmt::print("{}: {}\n{}\n", to_string(request.device), bench.device(), kernel_text_header());
  }

  void run() {
    for (const BenchLayers& layers : bench_layers())
      if (request_.wants(layers) && !bench_.kernels(layers.layout).empty())
        for (const ProductShape& shape : request_.shapes) run(layers, shape);
    if (request_.format == "json") fmt::print("{}\n", json_.dump(1));
    if (!refused_.empty()) fail("not timed, beyond their stated errors: {}", join(refused_, "; "));
    if (rows_ == 0) fail("nothing was timed: no kernel takes these layers");
  }

 private:
  struct Named {
    std::string name;
    std::unique_ptr<BenchedKernel> kernel;
  };

  void run(const BenchLayers& layers, const ProductShape& shape) {
    std::unique_ptr<QuantizedLinear> layer;
    std::vector<Named> kernels;
    for (const double bits : layers.bits) {
      if (!request_.wants_bits(bits)) continue;
      if (layer == nullptr || layers.reading == BenchReading::whole) {
        kernels.clear();
        layer = layers.make(shape.out, shape.in, bits, kSeed);
        kernels = make_kernels(layers, *layer, bits);
      }
      if (kernels.empty()) continue;
      for (const int64_t tokens : request_.batches) {
        const Case one(layers, *layer, bits, tokens);
        for (const Named& named : kernels) measure(layers, *layer, one, named);
      }
    }
  }

  std::vector<Named> make_kernels(const BenchLayers& layers, const QuantizedLinear& layer,
                                  double bits) const {
    std::vector<Named> made;
    for (const BenchedKernelName& each : bench_.kernels(layers.layout)) {
      if (!request_.wants_kernel(each.name)) continue;
      if (layers.reading == BenchReading::graded && !each.grades) continue;
      if (auto kernel = bench_.make(layers.layout, each.name, layer))
        made.push_back(
            {layers.variant.empty() ? each.name : each.name + "/" + layers.variant, std::move(kernel)});
      else
        fmt::print(stderr, "{}: kernel {} does not take {} x {} at {} bits\n", layers.name(), each.name,
                   layer.out(), layer.in(), bits);
    }
    return made;
  }

  void measure(const BenchLayers& layers, const QuantizedLinear& layer, const Case& one, const Named& named) {
    BenchedKernel& kernel = *named.kernel;
    KernelRow row{layers.layout, named.name, bench_.device()};
    row.n = layer.out();
    row.k = layer.in();
    row.batch = one.x.rows();
    row.bits = one.code_bits;
    row.error = product_error(kernel.product(one.task), one.exact.view());
    if (!(row.error <= kernel.tolerance())) {
      refused_.push_back(fmt::format("{}/{} {}x{} batch {} at {:.4g} bits: {:.1e}, {:.1e} allowed",
                                     row.layout, row.kernel, row.n, row.k, row.batch, row.bits, row.error,
                                     kernel.tolerance()));
      fmt::print(stderr, "{}\n", refused_.back());
      return;
    }
    row.bytes = kernel.bytes_read(one.task.counts);
    const TimedSamples samples = kernel.time(one.task, request_.repetitions);
    row.us_median = samples.quantile(0.5);
    row.us_p90 = samples.quantile(0.9);
    row.roof_us = bench_.roof(row.bytes, request_.repetitions, request_.early_roof);
    row.gbps = static_cast<double>(row.bytes) / row.us_median * 1e-3;
    row.roof_ratio = row.roof_us / row.us_median;
    show(row);
  }

  void show(const KernelRow& row) {
    ++rows_;
    if (request_.format == "json")
      json_.push_back(to_json(row));
    else
      fmt::print("{}\n", request_.format == "csv" ? to_csv(row) : to_text(row));
    std::fflush(stdout);
  }

  const Request& request_;
  KernelBench& bench_;
  int64_t rows_ = 0;
  Json json_ = Json::array();
  std::vector<std::string> refused_;
};

// The linear layers of an 8B Llama, single and as decoding fuses them, and its head.
constexpr const char* kGpuShapes = "4096x4096,6144x4096,14336x4096,4096x14336,28672x4096,128256x4096";
constexpr const char* kCpuShapes = "14336x4096,4096x14336";

int bench_kernels(const std::vector<std::string>& words) {
  Arguments arguments(
      "bench kernels [--device D] [--layouts A,B/VARIANT,...] [--kernels NAME,...] [--shapes NxK,...] "
      "[--bits B,...] [--batch T,...] [--repetitions R] [--early-roof] [--threads N] [--format "
      "text|csv|json]");
  arguments.options()("device", po::value<std::string>()->default_value("auto"), "auto, cpu, cuda or cuda:N")(
      "layouts", po::value<std::string>()->default_value("*"),
      "patterns of layouts, as they are mostly used, or of LAYOUT/VARIANT ('group_affine/*')")(
      "kernels", po::value<std::string>()->default_value("*"), "patterns of kernels")(
      "shapes", po::value<std::string>(), "outputs x inputs; default: those of an 8B model")(
      "bits", po::value<std::string>(), "code bits a weight, of those that a layout has; default: all")(
      "batch", po::value<std::string>()->default_value("1"), "tokens of a call")(
      "repetitions", po::value<int64_t>()->default_value(15), "of each timing; the median counts")(
      "early-roof", po::bool_switch(),
      "the roof may begin reading before the kernel ahead has ended, as decoding kernels do")(
      "threads", po::value<int>()->default_value(0), "of the CPU; 0: all that the machine offers");
  add_format_option(arguments);
  if (!arguments.parse(words)) return 0;
  Request request;
  request.device = parse_device("--device", arguments.get<std::string>("device"));
  request.layouts = split(arguments.get<std::string>("layouts"));
  request.kernels = split(arguments.get<std::string>("kernels"));
  request.shapes = shapes(arguments, "shapes",
                          arguments.has("shapes")                ? arguments.get<std::string>("shapes")
                          : request.device.device == Device::cpu ? kCpuShapes
                                                                 : kGpuShapes);
  if (arguments.has("bits")) request.bits = reals(arguments, "bits", 0.01, 32);
  request.batches = integers(arguments, "batch", 1, kMostTokens);
  request.repetitions = static_cast<int>(integer(arguments, "repetitions", 15, 10000));
  request.early_roof = arguments.get<bool>("early-roof");
  request.format = chosen_format(arguments);
  apply_threads(arguments);
  const auto bench = make_kernel_bench(request.device);
  check_names(arguments, request, *bench);
  for (const double wanted : request.bits)
    if (std::ranges::none_of(bench_layers(), [&](const BenchLayers& layers) {
          return request.wants(layers) && std::ranges::any_of(layers.bits, [&](double each) {
                   return std::abs(wanted - each) < 1e-6;
                 });
        }))
      arguments.refuse(fmt::format("--bits {}: none of these layouts is measured at as many", wanted));
  // What belongs beside the figures where they are kept.
  const std::string description = request.device.device == Device::cpu
                                      ? bench->device()
                                      : backend_of(request.device.device).description(request.device);
  fmt::print(stderr, "{}; grinqh {}, commit {}{}\n", description, GRINQH_VERSION, GRINQH_COMMIT,
             GRINQH_DIRTY ? ", changed" : "");
  Sweep(request, *bench).run();
  return 0;
}

const RegisterCommand command{"bench kernels", "time of decoding kernels beside that of reading their bytes",
                              bench_kernels};

}  // namespace
}  // namespace grinqh
