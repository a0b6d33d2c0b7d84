#include "report/table.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <set>

#include "core/error.h"
#include "core/text.h"
#include "store/columns.h"
#include "store/result_file.h"

namespace grinqh {

namespace {

namespace fs = std::filesystem;

std::vector<fs::path> search(const fs::path& folder) {
  std::vector<fs::path> found;
  try {
    for (fs::recursive_directory_iterator it(folder), end; it != end; ++it) {
      if (it->is_directory() && it->path().filename() == "cache") it.disable_recursion_pending();
      if (it->is_regular_file() && it->path().extension() == ".h5") found.push_back(it->path());
    }
  } catch (const fs::filesystem_error& error) {
    bad_input("{}: cannot search the folder: {}: {}", folder.string(), error.path1().string(),
              error.code().message());
  }
  if (found.empty()) bad_input("{}: no results (*.h5) in this folder", folder.string());
  return found;
}

// 0: a number, 1: text, 2: NaN, 3: nothing.
int rank(const Value& value) {
  if (is_null(value)) return 3;
  if (std::holds_alternative<std::string>(value)) return 1;
  const double* real = std::get_if<double>(&value);
  return real != nullptr && std::isnan(*real) ? 2 : 0;
}

double number(const Value& value) {
  const int64_t* integer = std::get_if<int64_t>(&value);
  return integer != nullptr ? static_cast<double>(*integer) : std::get<double>(value);
}

bool before(const Value& a, const Value& b) {
  if (rank(a) != rank(b)) return rank(a) < rank(b);
  if (rank(a) == 0) return number(a) < number(b);
  if (rank(a) == 1) return std::get<std::string>(a) < std::get<std::string>(b);
  return false;
}

Row load_row(const fs::path& file) {
  const Result result = read_result(file);
  Row row;
  for (const auto& [name, value] : result.texts) row.set(name, value);
  for (const auto& [name, value] : result.integers) row.set(name, value);
  for (const auto& [name, scalar] : result.scalars) row.set(name, scalar.value);
  const Json options = row.options();
  if (!options.is_null() && !options.is_object())
    bad_input("{}: column 'options' is not a JSON object", file.string());
  return row;
}

}  // namespace

const Value& Row::at(std::string_view column) const {
  static const Value null;
  const auto it = values_.find(column);
  return it == values_.end() ? null : it->second;
}

Json Row::options() const {
  const Value& text = at("options");
  if (is_null(text)) return nullptr;
  return Json::parse(std::get<std::string>(text), nullptr, false);
}

std::vector<fs::path> find_results(std::span<const fs::path> sources) {
  if (sources.empty()) bad_input("report: no files or folders given");
  std::map<fs::path, fs::path> files;  // canonical path -> as the user will know it
  for (const fs::path& source : sources) {
    std::error_code code;
    const fs::file_status status = fs::status(source, code);
    if (code || !fs::exists(status))
      bad_input("{}: cannot read: {}", source.string(), std::strerror(code ? code.value() : ENOENT));
    const std::vector<fs::path> found = fs::is_directory(status) ? search(source) : std::vector{source};
    for (const fs::path& file : found) files.emplace(fs::canonical(file), file);
  }
  std::vector<fs::path> paths;
  for (const auto& [canonical, path] : files) paths.push_back(path);
  return paths;
}

Table load_table(std::span<const fs::path> files) {
  Table table;
  std::set<std::string> extra;
  for (const fs::path& file : files) {
    table.rows.push_back(load_row(file));
    for (const auto& [name, value] : table.rows.back().values())
      if (find_column(name) == nullptr) extra.insert(name);
  }
  for (const Column& column : kRowColumns) table.columns.emplace_back(column.name);
  table.columns.insert(table.columns.end(), extra.begin(), extra.end());
  return table;
}

void sort_rows(Table& table, const std::string& key) {
  // The least significant first: each pass keeps the order of the ones before it among equals.
  std::vector<std::string> keys = {"order", "quantizer", "model"};
  if (!key.empty()) {
    if (std::find(table.columns.begin(), table.columns.end(), key) == table.columns.end())
      bad_input("--sort: {}", unknown_name("column", key, table.columns));
    keys.push_back(key);
  }
  for (const std::string& by : keys)
    std::stable_sort(table.rows.begin(), table.rows.end(),
                     [&](const Row& a, const Row& b) { return before(a.at(by), b.at(by)); });
}

std::string exact_text(const Value& value) {
  if (const auto* text = std::get_if<std::string>(&value)) return *text;
  if (const auto* integer = std::get_if<int64_t>(&value)) return std::to_string(*integer);
  if (const auto* real = std::get_if<double>(&value)) return fmt::format("{}", *real);
  return "";
}

}  // namespace grinqh
