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
constexpr const char* kFloat = "float";

struct Request {
  int64_t context = 0, sequences = 0, tokens = 0;
  int64_t capacity() const { return context + kWarmSteps + tokens + kSplitSteps; }
};

// What steps read, on average.
struct Reading {
  DecodeBytes bytes;
  double codes = 0, total = 0;  // bits of a quantized weight, read for a token
};

// A decoder whose caches are full of what no prompt made.
class Run {
 public:
  Run(const Transformer& transformer, LinearExecutor& linears, const Request& request,
      const QuantizedLinear* head)
      : request_(request), vocab_(transformer.vocab()) {
    const DecodePlan plan{request.sequences, request.capacity(), head};
    decoder_ = transformer.make_decoder(linears, plan);
    fill_cache(transformer, decoder_->cache(), plan, request.capacity());
  }
  std::string name() const { return std::string(decoder_->name()); }

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

  // In the middle of what step_seconds() goes through. weights: quantized ones.
  Reading reading(int64_t weights) {
    Reading reading;
    double weight_bytes = 0, cache_bytes = 0;
    const int64_t steps = std::min(kCountedSteps, request_.tokens);
    begin(std::max<int64_t>(middle() - steps / 2, 0));
    decoder_->count_bits(true);
    for (int64_t i = 0; i < steps; ++i) {
      step(1);
      reading.bytes = decoder_->bytes();
      weight_bytes += static_cast<double>(reading.bytes.weights);
      cache_bytes += static_cast<double>(reading.bytes.cache);
      const RowTraffic& traffic = decoder_->traffic();
      for (size_t s = 0; s < traffic.codes.size() && weights > 0; ++s) {
        const double share = 1.0 / static_cast<double>(steps * request_.sequences * weights);
        reading.codes += static_cast<double>(traffic.codes[s]) * share;
        reading.total += static_cast<double>(traffic.total[s]) * share;
      }
    }
    decoder_->count_bits(false);
    reading.bytes.weights = std::llround(weight_bytes / static_cast<double>(steps));
    reading.bytes.cache = std::llround(cache_bytes / static_cast<double>(steps));
    return reading;
  }

  DecodeSplit split() {
    begin(middle());
    DecodeSplit split;
    for (int i = 0; i < kSplitSteps; ++i) {
      const DecodeSplit one = decoder_->split();
      split.products += one.products / kSplitSteps;
      split.attention += one.attention / kSplitSteps;
      split.head += one.head / kSplitSteps;
      split.other += one.other / kSplitSteps;
    }
    return split;
  }

 private:
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
  int64_t middle() const { return request_.context + kWarmSteps + request_.tokens / 2; }

  Request request_;
  int64_t vocab_;
  std::unique_ptr<Decoder> decoder_;
};

// Methods that one quantization serves; none: the checkpoint as it is.
using Alike = std::vector<MethodSpec>;

std::vector<Alike> groups_of(const std::vector<std::string>& texts) {
  std::vector<Alike> groups;
  for (const std::string& text : texts) {
    if (text == kFloat) {
      groups.emplace_back();
      continue;
    }
    for (MethodSpec& method : read_methods(text)) {
      rehearse(method);
      const auto group = std::ranges::find_if(
          groups, [&](const Alike& each) { return !each.empty() && quantize_alike(each.front(), method); });
      (group == groups.end() ? groups.emplace_back() : *group).push_back(std::move(method));
    }
  }
  return groups;
}

// Output heads: methods, or none for the checkpoint's.
using HeadMethods = std::vector<std::optional<MethodSpec>>;

HeadMethods heads_of(const std::vector<std::string>& texts) {
  HeadMethods methods;
  for (const std::string& text : texts) {
    std::optional<MethodSpec>& method = methods.emplace_back();
    if (text == kFloat) continue;
    method = read_single_method(text);
    rehearse(*method);
  }
  return methods;
}

// What the methods make of a model's head; null: nothing.
struct Heads {
  HeadMethods methods;
  std::vector<std::unique_ptr<QuantizedLinear>> quantized;

  Heads(const HeadMethods& methods, const Model& model) : methods(methods) {
    for (const std::optional<MethodSpec>& method : methods)
      quantized.push_back(method ? quantize_alone(*method, "lm_head", model.head) : nullptr);
  }
  std::string name(size_t which) const {
    const std::optional<MethodSpec>& method = methods[which];
    return method ? method->quantizer.name + " " + method->label : kFloat;
  }
};

// Bytes a second of reading alone.
double read_rate(KernelBench& bench, const DeviceChoice& device) {
  const int64_t bytes = device.device == Device::cpu ? int64_t{1} << 28 : int64_t{1} << 30;
  constexpr int kRepetitions = 15;
  return static_cast<double>(bytes) / (bench.roof(bytes, kRepetitions, false) * 1e-6);
}

// The rows of one group of methods.
class GroupBench {
 public:
  // heads: of the transformer; one that the methods transform has heads of its own.
  GroupBench(const Alike& methods, const Transformer& transformer, const QuickCalibration& calibration,
             const Heads& heads)
      : methods_(methods), heads_(&heads) {
    if (!methods.empty()) quantized_.emplace(methods, transformer, calibration);
    subject_ = quantized_ ? &quantized_->subject() : &transformer;
    if (subject_ != &transformer) {
      own_heads_ = std::make_unique<Heads>(heads.methods, subject_->model());
      heads_ = own_heads_.get();
    }
    if (quantized_) executor_ = quantized_->linears();
    floats_ = subject_->float_linears();
  }

  // Bytes a second of reading alone: rate.
  template <class Row>
  void rows(const Request& request, double rate, const Row& row) const {
    for (size_t m = 0; m < std::max<size_t>(1, methods_.size()); ++m)
      for (size_t h = 0; h < heads_->methods.size(); ++h) row(figures(m, h, request, rate));
  }

 private:
  Figures figures(size_t m, size_t h, const Request& request, double rate) const {
    const MethodSpec* method = methods_.empty() ? nullptr : &methods_[m];
    if (method) executor_->set_policy(&quantized_->policy(m));
    LinearExecutor& linears = method ? static_cast<LinearExecutor&>(*executor_) : *floats_;
    Run run(*subject_, linears, request, heads_->quantized[h].get());
    const Reading reading = run.reading(method ? quantized_->model().weights() : 0);
    const double seconds = run.step_seconds();
    const DecodeSplit split = run.split();
    const auto sequences = static_cast<double>(request.sequences);
    const auto bytes = static_cast<double>(reading.bytes.total());
    return {{"method", method ? method->quantizer.name : kFloat},
            {"options", method ? method->label : ""},
            {"head_method", heads_->name(h)},
            {"decoder", run.name()},
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
            {"read_bits_codes", method ? Json(reading.codes) : Json()},
            {"read_bits_total", method ? Json(reading.total) : Json()},
            {"split_products_us", split.products * 1e6},
            {"split_attention_us", split.attention * 1e6},
            {"split_head_us", split.head * 1e6},
            {"split_other_us", split.other * 1e6}};
  }

  const Alike& methods_;
  const Heads* heads_;
  std::unique_ptr<Heads> own_heads_;  // outlive the transformer
  std::optional<SingleMethod> quantized_;
  const Transformer* subject_ = nullptr;
  std::unique_ptr<QuantizedExecutor> executor_;
  std::unique_ptr<LinearExecutor> floats_;
};

int bench_decode(const std::vector<std::string>& words) {
  Arguments arguments(
      "bench decode --model DIR|PRESET [--method TOML]... [--head TOML]... [--context 1024,...] "
      "[--batch 1,...] [--tokens 128] [--calibration FILE] [--threads N] [--device D] [--arithmetic A] "
      "[--format text|csv|json]");
  using Texts = std::vector<std::string>;
  arguments.options()("model", po::value<std::string>(), "a Hugging Face model folder or a preset")(
      "method", po::value<Texts>()->default_value({kFloat}, kFloat),
      "keys of a [[methods]] table or a .toml file, lists being axes; 'float': the checkpoint's weights. "
      "Methods that differ in their policies alone are quantized once")(
      "head", po::value<Texts>()->default_value({kFloat}, kFloat),
      "quantizes the output head, by a quantizer that needs no statistics: 'quantizer = \"...\", bits = 8'; "
      "'float': the checkpoint's")("context", po::value<std::string>()->default_value("1024"),
                                   "tokens in the cache before the first step")(
      "batch", po::value<std::string>()->default_value("1"), "sequences")(
      "tokens", po::value<int64_t>()->default_value(128), "steps that are timed")(
      "calibration", po::value<std::string>()->default_value("self"),
      "text for methods that need one; self: drawn from the model")(
      "threads", po::value<int>()->default_value(0), "of the CPU; 0: all that the machine offers");
  add_device_options(arguments);
  add_format_option(arguments);
  if (!arguments.parse(words)) return 0;
  const DeviceChoice device = chosen_device(arguments);
  const std::vector<int64_t> contexts = integers(arguments, "context", 0, 1 << 24);
  const std::vector<int64_t> batches = integers(arguments, "batch", 1, 1024);
  const int64_t tokens = integer(arguments, "tokens", 1, 1 << 20);
  const std::string format = chosen_format(arguments);
  apply_threads(arguments);
  const std::vector<Alike> groups = groups_of(arguments.get<Texts>("method"));
  const HeadMethods head_methods = heads_of(arguments.get<Texts>("head"));
  const AcceleratorScope scope(make_accelerator(device));

  const Model model = load_model(arguments.get<std::string>("model"));
  std::vector<Request> requests;
  for (const int64_t context : contexts)
    for (const int64_t batch : batches) {
      const Request& request = requests.emplace_back(Request{context, batch, tokens});
      if (request.capacity() > model.config.max_context)
        bad_input(
            "--context {} --tokens {}: with {} steps to warm up and to take apart they are {} tokens, the "
            "model's context is {}",
            context, tokens, kWarmSteps + kSplitSteps, request.capacity(), model.config.max_context);
    }
  const Heads heads(head_methods, model);
  const auto transformer = make_transformer(model, device);
  const auto bench = make_kernel_bench(device);
  const double rate = read_rate(*bench, device);
  const QuickCalibration calibration{.text = arguments.get<std::string>("calibration")};
  FigureRows rows(format);
  for (const Alike& methods : groups) {
    const GroupBench group(methods, *transformer, calibration, heads);
    for (const Request& request : requests)
      group.rows(request, rate, [&](Figures figures) {
        figures.insert(figures.begin(), {{"model", model.name()}, {"device", bench->device()}});
        rows.add(std::move(figures));
      });
  }
  rows.finish();
  return 0;
}

const RegisterCommand command{"bench decode", "tokens a second beside what reading a step's bytes takes",
                              bench_decode};

}  // namespace
}  // namespace grinqh
