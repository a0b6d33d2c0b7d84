#include "cli/bench_options.h"

#include <algorithm>
#include <charconv>
#include <cstdio>

#include <fmt/format.h>

#include "cli/kernel_rows.h"
#include "core/text.h"

namespace grinqh {

namespace po = boost::program_options;

namespace {

template <class T>
T number(const Arguments& arguments, const char* option, const std::string& text, T least, T most) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !(value >= least && value <= most))
    arguments.refuse(fmt::format("--{} '{}': allowed is {} to {}", option, text, least, most));
  return value;
}

template <class T>
std::vector<T> numbers(const Arguments& arguments, const char* option, T least, T most) {
  std::vector<T> values;
  for (const std::string& text : split(arguments.get<std::string>(option)))
    values.push_back(number<T>(arguments, option, text, least, most));
  return values;
}

std::string text_of(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_number_float()) return fmt::format("{:.6g}", value.get<double>());
  return value.is_null() ? "" : value.dump();
}

// As RFC 4180 has it, where a cell needs it.
std::string quoted(std::string cell) {
  if (cell.find_first_of(",\"\n") == std::string::npos) return cell;
  std::string text = "\"";
  for (const char c : cell) text += c == '"' ? std::string("\"\"") : std::string(1, c);
  return text + "\"";
}

std::vector<std::string> names_of(const Figures& row) {
  std::vector<std::string> names;
  for (const auto& [name, value] : row) names.push_back(name);
  return names;
}

std::vector<std::string> values_of(const Figures& row) {
  std::vector<std::string> values;
  for (const auto& [name, value] : row) values.push_back(text_of(value));
  return values;
}

void print_csv(std::vector<std::string> cells) {
  for (std::string& cell : cells) cell = quoted(std::move(cell));
  fmt::print("{}\n", join(cells, ","));
}

}  // namespace

std::vector<int64_t> integers(const Arguments& arguments, const char* option, int64_t least, int64_t most) {
  return numbers<int64_t>(arguments, option, least, most);
}

std::vector<double> reals(const Arguments& arguments, const char* option, double least, double most) {
  return numbers<double>(arguments, option, least, most);
}

int64_t integer(const Arguments& arguments, const char* option, int64_t least, int64_t most) {
  const auto value = arguments.get<int64_t>(option);
  if (value < least || value > most)
    arguments.refuse(fmt::format("--{} {}: allowed is {} to {}", option, value, least, most));
  return value;
}

std::vector<ProductShape> shapes(const Arguments& arguments, const char* option, const std::string& text) {
  constexpr int64_t kMost = 1 << 20;
  std::vector<ProductShape> all;
  for (const std::string& each : split(text)) {
    const std::vector<std::string> parts = split(each, 'x');
    if (parts.size() != 2)
      arguments.refuse(fmt::format("--{} '{}': allowed is NxK, outputs x inputs", option, each));
    all.push_back({number<int64_t>(arguments, option, parts[0], 1, kMost),
                   number<int64_t>(arguments, option, parts[1], 1, kMost)});
  }
  return all;
}

void add_format_option(Arguments& arguments) {
  arguments.options()("format", po::value<std::string>()->default_value("text"), "text, csv or json");
}

std::string chosen_format(const Arguments& arguments) {
  const std::vector<std::string> formats{"text", "csv", "json"};
  const auto format = arguments.get<std::string>("format");
  if (std::ranges::find(formats, format) == formats.end())
    arguments.refuse(unknown_name("format", format, formats));
  return format;
}

void FigureRows::add(Figures row) {
  if (format_ == "csv") {
    if (rows_.empty()) print_csv(names_of(row));
    print_csv(values_of(row));
    std::fflush(stdout);
  }
  rows_.push_back(std::move(row));
}

void FigureRows::finish() const {
  if (format_ == "csv") return;
  if (format_ == "json") {
    Json all = Json::array();
    for (const Figures& row : rows_) {
      Json object = Json::object();
      for (const auto& [name, value] : row) object[name] = value;
      all.push_back(std::move(object));
    }
    fmt::print("{}\n", all.dump(1));
    return;
  }
  std::vector<std::vector<std::string>> cells{names_of(rows_.front())};
  for (const Figures& row : rows_) cells.push_back(values_of(row));
  if (rows_.size() == 1) {
    const size_t widest = std::ranges::max(cells[0], {}, &std::string::size).size();
    for (size_t i = 0; i < cells[0].size(); ++i) fmt::print("{:{}}  {}\n", cells[0][i], widest, cells[1][i]);
    return;
  }
  std::vector<size_t> widths(cells[0].size(), 0);
  for (const auto& line : cells)
    for (size_t i = 0; i < line.size(); ++i) widths[i] = std::max(widths[i], line[i].size());
  for (const auto& line : cells) {
    for (size_t i = 0; i < line.size(); ++i) fmt::print("{}{:>{}}", i ? "  " : "", line[i], widths[i]);
    fmt::print("\n");
  }
}

}  // namespace grinqh
