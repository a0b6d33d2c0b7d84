// grinqh generate: continues a prompt with the checkpoint as it is, or quantized by one method.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>

#include <fmt/format.h>

#include "cli/command.h"
#include "core/text.h"
#include "experiment/prepare.h"
#include "experiment/rehearsal.h"
#include "experiment/single_method.h"
#include "model/tokenizer.h"
#include "runtime/backend.h"
#include "runtime/generate.h"

namespace grinqh {
namespace {

namespace po = boost::program_options;
using Clock = std::chrono::steady_clock;

double seconds_between(Clock::time_point begin, Clock::time_point end) {
  return std::chrono::duration<double>(end - begin).count();
}

// Text as its tokens come: what is held back is the tail that may be part of a character.
class Stream {
 public:
  explicit Stream(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}
  void add(int32_t token) {
    pending_.push_back(token);
    const std::string text = tokenizer_.decode(pending_, true);
    if (!text.ends_with("\xEF\xBF\xBD")) write(text);  // U+FFFD stands for what is no UTF-8 (yet)
  }
  void finish() { write(tokenizer_.decode(pending_, true) + "\n"); }

 private:
  void write(const std::string& text) {
    fmt::print("{}", text);
    std::fflush(stdout);
    pending_.clear();
  }
  const Tokenizer& tokenizer_;
  std::vector<int32_t> pending_;
};

// What the command is asked for, checked as far as it can be without the model.
struct Request {
  std::string prompt, calibration = "self";
  int64_t count = 0;
  Sampling sampling;
  std::vector<MethodSpec> method;  // none: float
};

Request read_request(const Arguments& arguments) {
  Request request;
  request.prompt = arguments.get<std::string>("prompt");
  request.count = arguments.get<int64_t>("tokens");
  if (request.count < 1) arguments.refuse(fmt::format("--tokens {}: allowed are 1 and more", request.count));
  request.sampling.temperature = arguments.get<double>("temperature");
  if (!(request.sampling.temperature >= 0) || std::isinf(request.sampling.temperature))
    arguments.refuse(fmt::format("--temperature {}: allowed are 0 and more", request.sampling.temperature));
  const auto seed = arguments.get<int64_t>("seed");
  if (seed < 0) arguments.refuse(fmt::format("--seed {}: allowed are 0 and more", seed));
  request.sampling.seed = static_cast<uint64_t>(seed);
  if (arguments.has("method")) {
    request.method.push_back(read_single_method(arguments.get<std::string>("method")));
    rehearse(request.method.front());
  }
  if (arguments.has("calibration")) {
    if (request.method.empty()) arguments.refuse("--calibration has no use without --method");
    request.calibration = arguments.get<std::string>("calibration");
  }
  return request;
}

std::vector<int32_t> encode_prompt(const Request& request, const Tokenizer& tokenizer,
                                   const ModelConfig& config) {
  std::vector<int32_t> ids = encode_for_model(tokenizer, request.prompt, config.vocab, "--prompt");
  if (tokenizer.adds_bos()) ids.insert(ids.begin(), tokenizer.encode("", true).front());
  if (ids.empty()) bad_input("--prompt: no tokens, and the model has none to begin a text with");
  const auto length = static_cast<int64_t>(ids.size());
  if (request.count > config.max_context - length)
    bad_input("--tokens {}: after a prompt of {} tokens allowed is 1 to {}, the model's context being {}",
              request.count, length, config.max_context - length, config.max_context);
  return ids;
}

// The figures of a generation, for stderr.
struct Timing {
  Clock::time_point begin = Clock::now(), first, last;
  int64_t tokens = 0;
  double code_bits = 0, total_bits = 0;  // a weight, summed over decoded tokens
};

void report(const Timing& timing, int64_t prompt_tokens, bool quantized) {
  const int64_t decoded = timing.tokens - 1;  // the prompt itself gave the first
  const double seconds = seconds_between(timing.first, timing.last);
  fmt::print(stderr, "prompt of {} tokens in {:.2f} s; {} tokens generated", prompt_tokens,
             seconds_between(timing.begin, timing.first), timing.tokens);
  if (decoded > 0) {
    const auto steps = static_cast<double>(decoded);
    fmt::print(stderr, ", {:.1f} tokens/s", steps / seconds);
    if (quantized)
      fmt::print(stderr, ", {:.3f} bits read per weight (codes {:.3f})", timing.total_bits / steps,
                 timing.code_bits / steps);
  }
  fmt::print(stderr, "\n");
}

int generate_text(const std::vector<std::string>& words) {
  Arguments arguments(
      "generate --model DIR --prompt T [--tokens N] [--temperature X] [--seed N] [--method TOML] "
      "[--calibration FILE] [--threads N] [--device D] [--arithmetic A]");
  arguments.options()("model", po::value<std::string>(), "a Hugging Face model folder")(
      "prompt", po::value<std::string>(), "text to continue")(
      "tokens", po::value<int64_t>()->default_value(64),
      "at most as many; an end-of-text token ends earlier")(
      "temperature", po::value<double>()->default_value(0), "0: the likeliest token each time")(
      "seed", po::value<int64_t>()->default_value(0), "of sampling")(
      "method", po::value<std::string>(),
      "quantizes first: keys of a [[methods]] table, 'quantizer = \"...\", bits = 4', or a .toml file")(
      "calibration", po::value<std::string>(),
      "text for methods that need one; default: drawn from the model itself")(
      "threads", po::value<int>()->default_value(0), "0: all that the machine offers");
  add_device_options(arguments);
  if (!arguments.parse(words)) return 0;
  const DeviceChoice device = chosen_device(arguments);
  apply_threads(arguments);
  const Request request = read_request(arguments);
  const AcceleratorScope scope(make_accelerator(device));

  const Model model = load_model(arguments.get<std::string>("model"));
  const Tokenizer tokenizer(model.folder / "tokenizer.json");
  const auto on_device = make_transformer(model, device);
  const Transformer& transformer = *on_device;
  const std::vector<int32_t> prompt = encode_prompt(request, tokenizer, model.config);

  std::optional<SingleMethod> method;
  if (!request.method.empty())
    method.emplace(request.method.front(), transformer,
                   QuickCalibration{.text = request.calibration, .seed = request.sampling.seed});
  const Transformer& subject = method ? method->subject() : transformer;
  const QuantizedModel none;
  const QuantizedModel& quantized = method ? method->model() : none;

  // Without a quantized layer all of them run in float.
  const auto linears = method ? method->linears() : subject.decoding_linears(none, nullptr);
  const auto weights = static_cast<double>(quantized.weights());
  Timing timing;
  Stream stream(tokenizer);
  const auto on_token = [&](size_t, int32_t token) {
    timing.last = Clock::now();
    if (timing.tokens++ == 0) {
      timing.first = timing.last;
    } else if (weights > 0) {
      timing.code_bits += static_cast<double>(linears->traffic().codes[0]) / weights;
      timing.total_bits += static_cast<double>(linears->traffic().total[0]) / weights;
    }
    if (std::ranges::find(model.config.eos_tokens, token) != model.config.eos_tokens.end()) return false;
    stream.add(token);
    return true;
  };
  generate(subject, *linears, {prompt.data(), 1, static_cast<int64_t>(prompt.size())}, request.count,
           request.sampling, on_token, weights > 0);
  stream.finish();
  report(timing, static_cast<int64_t>(prompt.size()), weights > 0);
  return 0;
}

const RegisterCommand command{"generate", "continue a prompt, with float or quantized weights",
                              generate_text};

}  // namespace
}  // namespace grinqh
