#include "cli/command.h"

#include <fmt/format.h>

#include <algorithm>
#include <sstream>

#include "core/error.h"
#include "core/parallel.h"
#include "core/text.h"

namespace grinqh {

namespace po = boost::program_options;

namespace {
std::map<std::string, Command, std::less<>>& command_table() {
  static std::map<std::string, Command, std::less<>> table;
  return table;
}
}  // namespace

void Arguments::positional(const std::string& name, size_t least, size_t most) {
  positional_ = name;
  least_ = least;
  most_ = most;
}

bool Arguments::parse(const std::vector<std::string>& words) {
  described_.add_options()("help,h", "this text");
  if (std::ranges::any_of(words, [](const std::string& word) { return word == "--help" || word == "-h"; })) {
    std::ostringstream text;
    text << described_;
    fmt::print("usage: grinqh {}\n{}", usage_, text.str());
    return false;
  }
  po::options_description all = described_;
  po::positional_options_description places;
  all.add_options()(positional_.c_str(), po::value<std::vector<std::string>>());
  places.add(positional_.c_str(), -1);
  try {
    const auto style = po::command_line_style::unix_style & ~po::command_line_style::allow_guessing;
    po::store(po::command_line_parser(words).options(all).positional(places).style(style).run(), values_);
    po::notify(values_);
  } catch (const po::error& error) {
    refuse(error.what());
  }
  const size_t count = this->words(positional_).size();
  if (count < least_) refuse(fmt::format("{} is missing", positional_));
  if (count > most_) refuse(fmt::format("unexpected '{}'", this->words(positional_)[most_]));
  return true;
}

void Arguments::refuse(const std::string& why) const { bad_input("{}; usage: grinqh {}", why, usage_); }

void Arguments::missing(const std::string& name) const { refuse(fmt::format("--{} is missing", name)); }

void apply_threads(const Arguments& arguments) {
  constexpr int kMost = 1024;
  const int count = arguments.get<int>("threads");
  if (count < 0 || count > kMost)
    arguments.refuse(
        fmt::format("--threads {}: allowed is 0, all that the machine offers, to {}", count, kMost));
  set_threads(count);
}

void add_device_options(Arguments& arguments) {
  arguments.options()("device", po::value<std::string>(), "auto, cpu, cuda or cuda:N")(
      "arithmetic", po::value<std::string>(), "on a GPU: bf16 with float32 sums (auto), or fp32 throughout");
}

DeviceChoice chosen_device(const Arguments& arguments) {
  const auto given = [&](const char* name) {
    return arguments.has(name) ? arguments.get<std::string>(name) : std::string("auto");
  };
  return parse_device("--device", given("device"), given("arithmetic"));
}

RegisterCommand::RegisterCommand(std::string_view name, std::string_view summary,
                                 std::function<int(const std::vector<std::string>&)> run) {
  command_table().emplace(name, Command{std::string(summary), std::move(run)});
}

const std::map<std::string, Command, std::less<>>& commands() { return command_table(); }

}  // namespace grinqh
