// grinqh bench plot: what `bench kernels` wrote as a picture, time over bytes beside the time that reading
// takes.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <set>

#include <fmt/format.h>

#include "cli/command.h"
#include "cli/kernel_rows.h"
#include "core/error.h"
#include "core/text.h"

namespace grinqh {
namespace {

namespace po = boost::program_options;

// A text within double quotes of gnuplot; nothing in it has a meaning.
std::string quoted(const std::string& text) {
  std::string plain;
  for (const char c : text) {
    if (c == '"' || c == '\\') plain += '\\';
    plain += c;
  }
  return "\"" + plain + "\"";
}

std::string points_of(const std::string& name, const std::vector<std::pair<double, double>>& points) {
  std::string text = name + " << EOD\n";
  for (const auto& [megabytes, microseconds] : points)
    text += fmt::format("{} {}\n", megabytes, microseconds);
  return text + "EOD\n";
}

// Self-contained: the data stand in the script.
std::string script_of(const std::vector<KernelRow>& rows, const std::string& title) {
  std::map<double, double> roof;
  std::map<std::string, std::vector<std::pair<double, double>>> series;
  for (const KernelRow& row : rows) {
    const double megabytes = static_cast<double>(row.bytes) / 1e6;
    const auto [known, first] = roof.emplace(megabytes, row.roof_us);
    known->second = std::min(known->second, row.roof_us);
    series[fmt::format("{}/{}{}", row.layout, row.kernel,
                       row.batch == 1 ? "" : fmt::format(", {} tokens", row.batch))]
        .emplace_back(megabytes, row.us_median);
  }
  std::string text = points_of("$roof", {roof.begin(), roof.end()});
  std::string plot = "plot $roof using 1:2 with lines lw 2 lc rgb '#444444' title 'roof: reading alone'";
  int number = 0;
  for (const auto& [name, points] : series) {
    text += points_of(fmt::format("$series{}", number), points);
    plot += fmt::format(", \\\n  $series{} using 1:2 with points pt {} lc {} title {}", number,
                        number % 13 + 4, number + 1, quoted(name));
    ++number;
  }
  return text + "set title " + quoted(title) +
         " noenhanced\nset logscale xy\nset grid\nset key inside left top Left reverse samplen 1 font ',9' "
         "noenhanced\n"
         "set xlabel 'MB read: weights and their metadata'\nset ylabel 'us a call'\n" +
         plot + "\n";
}

// Before a pipe to it would break.
bool gnuplot_is_there() { return std::system("command -v gnuplot > /dev/null 2>&1") == 0; }

void draw(const std::string& script, const std::string& path) {
  const std::string commands =
      "set terminal svg size 1100,700 font 'sans,12' background rgb 'white'\nset output " + quoted(path) +
      "\n" + script;
  FILE* gnuplot = popen("gnuplot", "w");
  if (gnuplot == nullptr) fail("gnuplot cannot be started");
  std::fwrite(commands.data(), 1, commands.size(), gnuplot);
  if (pclose(gnuplot) != 0) fail("gnuplot did not draw {}", path);
}

int bench_plot(const std::vector<std::string>& words) {
  Arguments arguments("bench plot KERNELS.csv ... --out FILE.svg|FILE.gnuplot [--title T]");
  arguments.options()("out", po::value<std::string>(), "a picture, or the script that draws it")(
      "title", po::value<std::string>(), "default: the device");
  arguments.positional("KERNELS.csv", 1, 1000);
  if (!arguments.parse(words)) return 0;
  const auto out = arguments.get<std::string>("out");
  const bool script_only = out.ends_with(".gnuplot");
  if (!script_only && !out.ends_with(".svg"))
    arguments.refuse(fmt::format("--out '{}': allowed is a name that ends in .svg or .gnuplot", out));
  if (!script_only && !gnuplot_is_there())
    bad_input(
        "--out {}: gnuplot is not installed (Debian: gnuplot-nox); a name that ends in .gnuplot gets the "
        "script",
        out);
  std::vector<KernelRow> rows;
  std::set<std::string> devices;
  for (const std::string& path : arguments.words("KERNELS.csv"))
    for (KernelRow& row : read_kernel_csv(path)) {
      devices.insert(row.device);
      rows.push_back(std::move(row));
    }
  if (devices.size() > 1)
    bad_input("one roof for all: the timings are of {}",
              join(std::vector<std::string>(devices.begin(), devices.end()), " and of "));
  const std::string script =
      script_of(rows, arguments.has("title") ? arguments.get<std::string>("title") : *devices.begin());
  std::ofstream file(out, std::ios::binary);
  if (!(file << (script_only ? script : "")) || !file.flush())
    bad_input("--out {}: it cannot be written", out);
  if (!script_only) draw(script, out);
  return 0;
}

const RegisterCommand command{"bench plot", "the roofline of bench kernels as a picture", bench_plot};

}  // namespace
}  // namespace grinqh
