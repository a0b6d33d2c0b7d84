// grinqh bench compare: what `bench kernels` wrote beside other people's kernels, measured elsewhere.
#include <algorithm>
#include <charconv>
#include <limits>
#include <map>
#include <sstream>

#include <fmt/format.h>

#include "cli/command.h"
#include "cli/kernel_rows.h"
#include "core/error.h"
#include "core/text.h"

namespace grinqh {
namespace {

namespace po = boost::program_options;

struct Peer {
  std::string name;  // "peer kernel"
  double bits = 0;
  int64_t n = 0, k = 0;
  double us = 0;
  double roof_ratio = 0;  // nan where it was not measured
};

// Columns by name, whatever their order: peer, kernel, bits_nominal, N, K, us_median and
// pct_of_roof_same_bytes, in percent. Rows without a shape are no products.
std::vector<Peer> read_peers(const std::string& path) {
  std::istringstream lines(read_file(path, "timings of peers"));
  std::string line;
  std::getline(lines, line);
  const std::vector<std::string> header = split(line);
  std::map<std::string, size_t> places;
  for (const char* name :
       {"peer", "kernel", "bits_nominal", "N", "K", "us_median", "pct_of_roof_same_bytes"}) {
    const auto found = std::ranges::find(header, name);
    if (found == header.end()) bad_input("{}:1: column '{}' is missing; there are {}", path, name, line);
    places[name] = static_cast<size_t>(found - header.begin());
  }
  std::vector<Peer> peers;
  for (int number = 2; std::getline(lines, line); ++number) {
    const std::vector<std::string> parts = split(line);
    const auto text = [&](const char* name) -> const std::string& {
      const size_t place = places.at(name);
      if (place >= parts.size())
        bad_input("{}:{}: {} columns, the first line has {}", path, number, parts.size(), header.size());
      return parts[place];
    };
    const auto real = [&](const char* name) {
      const std::string& word = text(name);
      double value = 0;
      const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
      if (error != std::errc() || end != word.data() + word.size())
        bad_input("{}:{}: column '{}' is '{}', which is no number", path, number, name, word);
      return value;
    };
    Peer peer{
        text("peer") + " " + text("kernel"), real("bits_nominal"), static_cast<int64_t>(real("N")),
        static_cast<int64_t>(real("K")),     real("us_median"),    real("pct_of_roof_same_bytes") / 100};
    if (peer.n > 0 && peer.k > 0 && peer.us > 0) peers.push_back(std::move(peer));
  }
  if (peers.empty()) bad_input("{}: no timings of products in it", path);
  return peers;
}

// One of our rows against the peers that multiply the same shape at as many bits or more.
struct Comparison {
  const KernelRow* row;
  std::vector<const Peer*> peers;

  // Which the peer takes longer than we do, in time and as shares of what each one's card can read.
  double time_ratio(const Peer& peer) const { return peer.us / row->us_median; }
  double roof_gain(const Peer& peer) const { return row->roof_ratio / peer.roof_ratio; }
};

std::vector<Comparison> compare(const std::vector<KernelRow>& rows, const std::vector<Peer>& peers) {
  std::vector<Comparison> all;
  for (const KernelRow& row : rows) {
    if (row.batch != 1) continue;  // peers were timed with one token
    Comparison comparison{&row, {}};
    for (const Peer& peer : peers)
      if (peer.n == row.n && peer.k == row.k && peer.bits >= row.bits - 1e-6)
        comparison.peers.push_back(&peer);
    if (!comparison.peers.empty()) all.push_back(std::move(comparison));
  }
  return all;
}

void print_csv(const std::vector<Comparison>& all) {
  fmt::print(
      "layout,kernel,device,N,K,bits,us_median,roof_ratio,peer,peer_bits,peer_us,peer_roof_ratio,"
      "time_ratio,roof_gain\n");
  for (const Comparison& one : all)
    for (const Peer* peer : one.peers)
      fmt::print("{},{},{},{},{},{:.6g},{:.4f},{:.4f},{},{:.6g},{:.4f},{:.4f},{:.4f},{:.4f}\n",
                 one.row->layout, one.row->kernel, one.row->device, one.row->n, one.row->k, one.row->bits,
                 one.row->us_median, one.row->roof_ratio, peer->name, peer->bits, peer->us, peer->roof_ratio,
                 one.time_ratio(*peer), one.roof_gain(*peer));
}

void print_text(const std::vector<Comparison>& all) {
  fmt::print("{:40} {:>13} {:>6} {:>8} {:>6}  {:>9} {:>9}  {:<42} {:>6} {:>6}\n", "ours", "N x K", "bits",
             "us", "roof", "in time", "by roof", "fastest peer at as many bits or more", "time x", "roof x");
  const auto share = [](const Comparison& one, auto ratio) {
    const auto ahead =
        std::ranges::count_if(one.peers, [&](const Peer* peer) { return (one.*ratio)(*peer) > 1; });
    return fmt::format("{}/{}", ahead, one.peers.size());
  };
  for (const Comparison& one : all) {
    const Peer& best = **std::ranges::min_element(one.peers, {}, [](const Peer* peer) { return peer->us; });
    fmt::print("{:40} {:>13} {:>6.4g} {:>8.2f} {:>6.3f}  {:>9} {:>9}  {:<42} {:>6.2f} {:>6.2f}\n",
               one.row->layout + "/" + one.row->kernel, fmt::format("{}x{}", one.row->n, one.row->k),
               one.row->bits, one.row->us_median, one.row->roof_ratio, share(one, &Comparison::time_ratio),
               share(one, &Comparison::roof_gain), fmt::format("{} ({:.4g} b)", best.name, best.bits),
               one.time_ratio(best), one.roof_gain(best));
  }
  fmt::print("in time, by roof: peers that take longer, that come less close to what their card can read\n");
}

int bench_compare(const std::vector<std::string>& words) {
  Arguments arguments("bench compare --peers FILE.csv OURS.csv [--format text|csv]");
  arguments.options()("peers", po::value<std::string>(),
                      "timings of other kernels: peer, kernel, bits_nominal, N, K, us_median, "
                      "pct_of_roof_same_bytes and any other columns")(
      "format", po::value<std::string>()->default_value("text"),
      "text: the fastest peer of each row; csv: every pair");
  arguments.positional("OURS.csv", 1, 1);
  if (!arguments.parse(words)) return 0;
  const std::vector<std::string> formats{"text", "csv"};
  const auto format = arguments.get<std::string>("format");
  if (std::ranges::find(formats, format) == formats.end())
    arguments.refuse(unknown_name("format", format, formats));
  const std::string ours = arguments.words("OURS.csv")[0], theirs = arguments.get<std::string>("peers");
  const std::vector<KernelRow> rows = read_kernel_csv(ours);
  const std::vector<Peer> peers = read_peers(theirs);
  const std::vector<Comparison> all = compare(rows, peers);
  if (all.empty()) bad_input("{}: no row of one token has a shape that {} has at as many bits", ours, theirs);
  if (format == "csv")
    print_csv(all);
  else
    print_text(all);
  return 0;
}

const RegisterCommand command{"bench compare", "timings of bench kernels beside those of other kernels",
                              bench_compare};

}  // namespace
}  // namespace grinqh
