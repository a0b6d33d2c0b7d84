// grinqh eval: the perplexity of a checkpoint as it is.
#include <algorithm>

#include <fmt/format.h>

#include "cli/command.h"
#include "core/error.h"
#include "core/json.h"
#include "core/text.h"
#include "eval/perplexity_of.h"
#include "eval/windows.h"

namespace grinqh {
namespace {

namespace po = boost::program_options;

int evaluate(const std::vector<std::string>& words) {
  Arguments arguments(
      "eval --model DIR --text FILE [--context 1024] [--protocol windows] [--device D] "
      "[--arithmetic A] [--format json]");
  arguments.options()("model", po::value<std::string>(), "a Hugging Face model folder")(
      "text", po::value<std::string>(), "UTF-8 text")("context", po::value<int64_t>()->default_value(1024),
                                                      "tokens of a window")(
      "protocol", po::value<std::string>()->default_value("windows"), join(protocols(), ", ").c_str())(
      "format", po::value<std::string>()->default_value("text"), "text or json")(
      "threads", po::value<int>()->default_value(0), "0: all that the machine offers");
  add_device_options(arguments);
  if (!arguments.parse(words)) return 0;
  const DeviceChoice device = chosen_device(arguments);
  const auto protocol = arguments.get<std::string>("protocol"), format = arguments.get<std::string>("format");
  if (std::ranges::find(protocols(), protocol) == protocols().end())
    bad_input("{}", unknown_name("protocol", protocol, protocols()));
  if (format != "text" && format != "json")
    arguments.refuse(fmt::format("unknown format '{}'; known: json, text", format));
  apply_threads(arguments);
  const Model model = load_model(arguments.get<std::string>("model"));
  const auto text = arguments.get<std::string>("text");
  const auto context = arguments.get<int64_t>("context");
  const TextPerplexity result = perplexity_of(model, text, protocol, context, device);
  if (format == "json") {
    const Json json{{"model", model.name()},
                    {"text", text},
                    {"protocol", protocol},
                    {"context", context},
                    {"device", to_string(device)},
                    {"windows", result.windows},
                    {"tokens", result.tokens},
                    {"perplexity", result.perplexity},
                    {"evaluate_seconds", result.seconds},
                    {"load_seconds", result.load_seconds}};
    fmt::print("{}\n", json.dump(1));
  } else {
    fmt::print("{}: perplexity {:.4f} on {} ({} windows of {}, protocol {}, {} tokens scored, {:.2f} s)\n",
               model.name(), result.perplexity, text, result.windows, context, protocol, result.tokens,
               result.seconds);
    fmt::print("loading before that: {:.2f} s\n", result.load_seconds);
  }
  return 0;
}

const RegisterCommand command{"eval", "perplexity of a model on a text", evaluate};

}  // namespace
}  // namespace grinqh
