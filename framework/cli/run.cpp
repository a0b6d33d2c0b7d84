// grinqh run FILE.toml: a sweep, resumed where it stopped, and its table.
#include <fmt/format.h>

#include "cli/command.h"
#include "core/text.h"
#include "experiment/runner.h"
#include "report/report.h"
#include "store/result_file.h"

namespace grinqh {
namespace {

namespace po = boost::program_options;
namespace fs = std::filesystem;

// An experiment file, or a result file, which holds the experiment of its one cell.
ConfigTable read_config(const fs::path& file, const std::vector<std::string>& overrides) {
  if (file.extension() != ".h5") return ConfigTable::read(file, overrides);
  const Result result = read_result(file);
  const auto toml = result.provenance.find("resolved_toml");
  if (toml == result.provenance.end()) bad_input("{}: holds no experiment", file.string());
  return ConfigTable::parse(toml->second, file.string(), overrides);
}

int run(const std::vector<std::string>& words) {
  Arguments arguments(
      "run FILE.toml [--set KEY=VALUE]... [--out DIR] [--device auto|cpu|cuda] [--arithmetic bf16|fp32] "
      "[--threads N] [--fresh] [--dry-run]");
  arguments.options()("set", po::value<std::vector<std::string>>(),
                      "another value for a key: seed=1, methods.0.bits=[4,3]")(
      "out", po::value<std::string>(), "folder of the results; default: results/<name of the file>")(
      "threads", po::value<int>()->default_value(0), "0: all that the machine offers")(
      "fresh", "compute finished cells again")("dry-run", "say what would be computed");
  add_device_options(arguments);
  arguments.positional("FILE", 1, 1);
  if (!arguments.parse(words)) return 0;
  apply_threads(arguments);

  const fs::path file = arguments.words("FILE")[0];
  ExperimentSpec spec = read_experiment(read_config(file, arguments.words("set")), file.parent_path());
  if (arguments.has("device") || arguments.has("arithmetic")) spec.device = chosen_device(arguments);
  RunOptions options;
  options.folder =
      arguments.has("out") ? fs::path(arguments.get<std::string>("out")) : "results" / file.stem();
  options.fresh = arguments.has("fresh");
  options.dry_run = arguments.has("dry-run");
  options.command = "grinqh run " + join(words, " ");
  const RunOutcome outcome = run_experiment(spec, options);
  if (options.dry_run) return 0;
  fmt::print(stderr, "{} cells computed, {} reused, {} failed; results in {}\n", outcome.computed,
             outcome.reused, outcome.failed, options.folder.string());
  fmt::print("{}", format_report(outcome.results, "markdown", ""));
  return outcome.failed ? 1 : 0;
}

const RegisterCommand command{"run", "run the sweep of an experiment file, or resume it", run};

}  // namespace
}  // namespace grinqh
