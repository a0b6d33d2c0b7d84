// grinqh bench decode: tokens a second of the decode step beside the rate at which the device can read what a
// step needs.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>

#include <fmt/format.h>

#include "cli/bench_options.h"
#include "core/error.h"
#include "core/rng.h"
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

constexpr int kRounds = 3;             // of all tokens; the median counts
constexpr int64_t kWarmSteps = 8;      // before each round
constexpr int64_t kCountedSteps = 16;  // in which bits and bytes are counted
constexpr int kSplitSteps = 5;

struct Request {
  int64_t context = 0, sequences = 0, tokens = 0;
  int64_t capacity() const { return context + kWarmSteps + tokens + kSplitSteps; }
};

// A decoder whose caches are full of what no prompt made.
class Run {
 public:
  Run(const Transformer& transformer, LinearExecutor& linears, const Request& request,
      const QuantizedLinear* head, bool counts_bits)
      : request_(request), vocab_(transformer.vocab()) {
    DecodePlan plan{request.sequences, request.capacity(), head};
    plan.counts_bits = counts_bits;
    decoder_ = transformer.make_decoder(linears, plan);
    fill_cache(transformer, decoder_->cache(), plan, request.capacity());
  }
  Decoder& decoder() { return *decoder_; }

  // Random tokens after so many others.
  void begin(int64_t position) {
    Rng rng(static_cast<uint64_t>(position));
    std::vector<int32_t> tokens;
    for (int64_t s = 0; s < request_.sequences; ++s)
      tokens.push_back(static_cast<int32_t>(rng.below(static_cast<uint64_t>(vocab_))));
    const std::vector<int32_t> positions(tokens.size(), static_cast<int32_t>(position));
    decoder_->begin(tokens, positions, {});
  }
  void step(int64_t count) {
    int64_t begun = 0;
    for (int64_t read = 0; read < count; ++read) {
      for (; begun < count && begun - read < decoder_->most_ahead(); ++begun) decoder_->advance();
      decoder_->read();
    }
  }
  // Seconds a step, the context growing from what was asked for.
  double step_seconds() {
    TimedSamples rounds;
    for (int round = 0; round < kRounds; ++round) {
      begin(request_.context);
      step(kWarmSteps);
      const auto start = Clock::now();
      step(request_.tokens);
      rounds.microseconds.push_back(std::chrono::duration<double>(Clock::now() - start).count() * 1e6 /
                                    static_cast<double>(request_.tokens));
    }
    return rounds.quantile(0.5) * 1e-6;
  }
  // The middle of what step_seconds() goes through.
  int64_t middle() const { return request_.context + kWarmSteps + request_.tokens / 2; }

 private:
  Request request_;
  int64_t vocab_;
  std::unique_ptr<Decoder> decoder_;
};

// What steps read, on average.
struct Reading {
  DecodeBytes bytes;
  double codes = 0, total = 0;  // bits of a quantized weight, read for a token
};

Reading count_reading(const Transformer& transformer, LinearExecutor& linears, const Request& request,
                      const QuantizedLinear* head, int64_t weights) {
  Run run(transformer, linears, request, head, true);
  Reading reading;
  double weight_bytes = 0, cache_bytes = 0;
  const int64_t steps = std::min(kCountedSteps, request.tokens);
  run.begin(std::max<int64_t>(run.middle() - steps / 2, 0));
  for (int64_t i = 0; i < steps; ++i) {
    run.step(1);
    reading.bytes = run.decoder().bytes();
    weight_bytes += static_cast<double>(reading.bytes.weights);
    cache_bytes += static_cast<double>(reading.bytes.cache);
    const RowTraffic& traffic = run.decoder().traffic();
    for (size_t s = 0; s < traffic.codes.size() && weights > 0; ++s) {
      const double share = 1.0 / static_cast<double>(steps * request.sequences * weights);
      reading.codes += static_cast<double>(traffic.codes[s]) * share;
      reading.total += static_cast<double>(traffic.total[s]) * share;
    }
  }
  reading.bytes.weights = std::llround(weight_bytes / static_cast<double>(steps));
  reading.bytes.cache = std::llround(cache_bytes / static_cast<double>(steps));
  return reading;
}

// Bytes a second of reading alone.
double read_rate(KernelBench& bench, const DeviceChoice& device) {
  const int64_t bytes = device.device == Device::cpu ? int64_t{1} << 28 : int64_t{1} << 30;
  constexpr int kRepetitions = 15;
  return static_cast<double>(bytes) / (bench.roof(bytes, kRepetitions, false) * 1e-6);
}

int bench_decode(const std::vector<std::string>& words) {
  Arguments arguments(
      "bench decode --model DIR|PRESET [--method TOML] [--head TOML] [--context 1024] [--batch 1] "
      "[--tokens 128] [--calibration FILE] [--threads N] [--device D] [--arithmetic A] "
      "[--format text|csv|json]");
  arguments.options()("model", po::value<std::string>(), "a Hugging Face model folder or a preset")(
      "method", po::value<std::string>(), "keys of a [[methods]] table or a .toml file; default: float")(
      "head", po::value<std::string>(),
      "quantizes the output head, by a quantizer that needs no statistics: 'quantizer = \"...\", bits = 8'")(
      "context", po::value<int64_t>()->default_value(1024), "tokens in the cache before the first step")(
      "batch", po::value<int64_t>()->default_value(1), "sequences")(
      "tokens", po::value<int64_t>()->default_value(128), "steps that are timed")(
      "calibration", po::value<std::string>()->default_value("self"),
      "text for methods that need one; self: drawn from the model")(
      "threads", po::value<int>()->default_value(0), "of the CPU; 0: all that the machine offers");
  add_device_options(arguments);
  add_format_option(arguments);
  if (!arguments.parse(words)) return 0;
  const DeviceChoice device = chosen_device(arguments);
  Request request;
  request.context = integer(arguments, "context", 0, 1 << 24);
  request.sequences = integer(arguments, "batch", 1, 1024);
  request.tokens = integer(arguments, "tokens", 1, 1 << 20);
  const std::string format = chosen_format(arguments);
  apply_threads(arguments);
  const auto method_of = [&](const char* option) {
    std::optional<MethodSpec> method;
    if (arguments.has(option)) {
      method = read_single_method(arguments.get<std::string>(option));
      rehearse(*method);
    }
    return method;
  };
  const std::optional<MethodSpec> method = method_of("method"), head_method = method_of("head");
  const AcceleratorScope scope(make_accelerator(device));

  const Model model = load_model(arguments.get<std::string>("model"));
  if (request.capacity() > model.config.max_context)
    bad_input(
        "--context {} --tokens {}: with {} steps to warm up and to take apart they are {} tokens, the "
        "model's context is {}",
        request.context, request.tokens, kWarmSteps + kSplitSteps, request.capacity(),
        model.config.max_context);
  const auto transformer = make_transformer(model, device);
  std::optional<SingleMethod> quantized;
  if (method)
    quantized.emplace(*method, *transformer,
                      QuickCalibration{.text = arguments.get<std::string>("calibration")});
  const Transformer& subject = quantized ? quantized->subject() : *transformer;
  std::unique_ptr<QuantizedLinear> head;
  if (head_method) head = quantize_alone(*head_method, "lm_head", subject.model().head);
  const std::unique_ptr<LinearExecutor> linears =
      quantized ? std::unique_ptr<LinearExecutor>(quantized->linears()) : subject.float_linears();

  const Reading reading =
      count_reading(subject, *linears, request, head.get(), quantized ? quantized->model().weights() : 0);
  Run run(subject, *linears, request, head.get(), false);
  const double seconds = run.step_seconds();
  run.begin(run.middle());
  DecodeSplit split;
  for (int i = 0; i < kSplitSteps; ++i) {
    const DecodeSplit one = run.decoder().split();
    split.products += one.products / kSplitSteps;
    split.attention += one.attention / kSplitSteps;
    split.head += one.head / kSplitSteps;
    split.other += one.other / kSplitSteps;
  }
  const auto bench = make_kernel_bench(device);
  const double rate = read_rate(*bench, device);
  const auto sequences = static_cast<double>(request.sequences);
  const auto bytes = static_cast<double>(reading.bytes.total());
  print_figures(
      {{{"model", model.name()},
        {"method", method ? method->quantizer.name : "float"},
        {"options", method ? method->label : ""},
        {"head_method", head_method ? head_method->quantizer.name + " " + head_method->label : "float"},
        {"device", bench->device()},
        {"decoder", std::string(run.decoder().name())},
        {"context", request.context},
        {"batch", request.sequences},
        {"tokens", request.tokens},
        {"tokens_per_second", sequences / seconds},
        {"step_us", seconds * 1e6},
        {"bytes_per_token", bytes / sequences},
        {"weight_bytes", reading.bytes.weights},
        {"cache_bytes", reading.bytes.cache},
        {"head_bytes", reading.bytes.head},
        {"read_gbps", rate * 1e-9},
        {"roof_us", bytes / rate * 1e6},
        {"roof_ratio", bytes / rate / seconds},
        {"read_bits_codes", quantized ? Json(reading.codes) : Json()},
        {"read_bits_total", quantized ? Json(reading.total) : Json()},
        {"split_products_us", split.products * 1e6},
        {"split_attention_us", split.attention * 1e6},
        {"split_head_us", split.head * 1e6},
        {"split_other_us", split.other * 1e6}}},
      format);
  return 0;
}

const RegisterCommand command{"bench decode", "tokens a second beside what reading a step's bytes takes",
                              bench_decode};

}  // namespace
}  // namespace grinqh
