// grinqh check DIR ...: compares with the outputs of transformers that lie in the folders.
#include <fmt/format.h>

#include "cli/command.h"
#include "core/progress.h"
#include "eval/conformance.h"

namespace grinqh {
namespace {

namespace po = boost::program_options;

int check_folders(const std::vector<std::string>& words) {
  Arguments arguments("check DIR ... [--texts DIR] [--device D] [--arithmetic A] [--threads N]");
  arguments.options()("texts", po::value<std::string>()->default_value(""),
                      "where the texts of perplexity.json are, to compare these too")(
      "threads", po::value<int>()->default_value(0), "0: all that the machine offers");
  add_device_options(arguments);
  arguments.positional("DIR", 1, 1000);
  if (!arguments.parse(words)) return 0;
  DeviceChoice device = chosen_device(arguments);
  if (!arguments.has("arithmetic")) device.arithmetic = Arithmetic::float32;
  apply_threads(arguments);
  Progress::set_enabled(false);
  bool all_agree = true;
  for (const std::string& folder : arguments.words("DIR")) {
    for (const Comparison& each : check_conformance(folder, arguments.get<std::string>("texts"), device)) {
      fmt::print("{}: {}: {}: {}\n", folder, each.what, each.agrees ? "agrees" : "DIFFERS", each.figure);
      all_agree = all_agree && each.agrees;
    }
  }
  return all_agree ? 0 : 1;
}

const RegisterCommand command{"check", "compare with the outputs in a model's folder", check_folders};

}  // namespace
}  // namespace grinqh
