// grinqh report: results as a table.
#include "report/report.h"

#include <fmt/format.h>

#include "cli/command.h"

namespace grinqh {
namespace {

namespace po = boost::program_options;

int report(const std::vector<std::string>& words) {
  Arguments arguments("report DIR|FILE.h5 ... [--format markdown|csv|json|latex|html] [--sort KEY]");
  arguments.options()("format", po::value<std::string>()->default_value("markdown"), "of the report")(
      "sort", po::value<std::string>()->default_value(""), "a column; default: model and place in the sweep");
  arguments.positional("RESULTS", 1, 100000);
  if (!arguments.parse(words)) return 0;
  std::vector<std::filesystem::path> sources;
  for (const std::string& word : arguments.words("RESULTS")) sources.emplace_back(word);
  fmt::print(
      "{}", format_report(sources, arguments.get<std::string>("format"), arguments.get<std::string>("sort")));
  return 0;
}

const RegisterCommand command{"report", "results as markdown, csv, json, latex or html", report};

}  // namespace
}  // namespace grinqh
