// The rows of a report as the result files have them, before any format.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/json.h"

namespace grinqh {

using Value = std::variant<std::monostate, std::string, int64_t, double>;
inline bool is_null(const Value& value) { return std::holds_alternative<std::monostate>(value); }

class Row {
 public:
  void set(std::string_view column, Value value) { values_[std::string(column)] = std::move(value); }
  const Value& at(std::string_view column) const;  // null where the row lacks the column
  Json options() const;                            // the column `options` parsed; null where absent
  const std::map<std::string, Value, std::less<>>& values() const { return values_; }

 private:
  std::map<std::string, Value, std::less<>> values_;
};

struct Table {
  std::vector<std::string> columns;  // the contract's, then the extra ones by name
  std::vector<Row> rows;
};

// Result files: those named, and every *.h5 under the folders named except under folders called `cache`.
// Each once, by path. BadInput for a source that is missing and if a folder holds none.
std::vector<std::filesystem::path> find_results(std::span<const std::filesystem::path> sources);

Table load_table(std::span<const std::filesystem::path> files);

// Ascending and stable over the default order; text after numbers, then NaN, rows without a value last.
void sort_rows(Table& table, const std::string& key);

// Shortest decimal that reads back to the same double; "" for null.
std::string exact_text(const Value& value);

}  // namespace grinqh
