#include "report/readable.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <optional>

#include "core/error.h"
#include "core/text.h"
#include "store/columns.h"

namespace grinqh {

namespace {

struct Style {
  std::string_view name, title;
  int decimals;
};

constexpr std::array kMeasured = {
    Style{"perplexity", "perplexity", 3},
    Style{"perplexity_float", "float perplexity", 3},
    Style{"kl_mean", "KL mean", 5},
    Style{"kl_p99", "KL p99", 5},
    Style{"top1_agreement", "top-1", 4},
    Style{"stored_bits", "stored bits", 3},
    Style{"read_bits_codes", "read bits (codes)", 3},
    Style{"read_bits_total", "read bits (total)", 3},
    Style{"quantize_seconds", "quantize s", 1},
    Style{"evaluate_seconds", "evaluate s", 1},
    Style{"tokens_per_second", "tokens/s", 1},
    Style{"bytes_per_token", "bytes/token", 0},
    Style{"roof_ratio", "of the roof", 3},
};

// Said once above the table where all rows agree, otherwise columns.
constexpr std::array<std::string_view, 8> kProtocol = {"dataset", "phase",  "context", "tokens",
                                                       "policy",  "device", "seed",    "status"};

// For the sweep's bookkeeping; `label` stands in the column `options`.
constexpr std::array<std::string_view, 2> kUnshown = {"label", "order"};

constexpr std::string_view kUsualStatus = "ok";  // not worth a word

using RowRefs = std::vector<std::reference_wrapper<const Row>>;

bool present(const RowRefs& rows, std::string_view column) {
  return std::any_of(rows.begin(), rows.end(), [&](const Row& row) { return !is_null(row.at(column)); });
}

bool varies(const RowRefs& rows, std::string_view column) {
  return std::any_of(rows.begin(), rows.end(), [&](const Row& row) {
    return exact_text(row.at(column)) != exact_text(rows.front().get().at(column));
  });
}

const Style* find_style(std::string_view name) {
  const auto it =
      std::find_if(kMeasured.begin(), kMeasured.end(), [&](const Style& s) { return s.name == name; });
  return it == kMeasured.end() ? nullptr : &*it;
}

std::string number_text(double value, std::string_view column) {
  const Style* style = find_style(column);
  if (style == nullptr) return fmt::format("{:.6g}", value);
  // A model that fell apart has a perplexity of any size.
  constexpr double kTooLong = 1e7;
  if (style->decimals > 0 && std::abs(value) >= kTooLong) return fmt::format("{:.3e}", value);
  return fmt::format("{:.{}f}", value, style->decimals);
}

// Without a label every resolved option is written.
std::string options_text(const Row& row) {
  if (const Value& label = row.at("label"); !is_null(label)) return exact_text(label);
  std::vector<std::string> parts;
  const Json options = row.options();
  for (const auto& [key, value] : options.items())
    parts.push_back(key + "=" + (value.is_string() ? value.get<std::string>() : value.dump()));
  return join(parts, " ");
}

std::string cell_text(const Row& row, std::string_view column) {
  const Value& value = row.at(column);
  std::string text = exact_text(value);
  if (column == "options") text = options_text(row);
  if (const double* real = std::get_if<double>(&value)) text = number_text(*real, column);
  std::replace_if(
      text.begin(), text.end(), [](char c) { return c == '\n' || c == '\r' || c == '\t'; }, ' ');
  return text;
}

std::vector<RowRefs> group_by_model(const Table& table) {
  std::vector<RowRefs> groups;
  for (const Row& row : table.rows) {
    const auto same = [&](const RowRefs& rows) { return rows.front().get().at("model") == row.at("model"); };
    if (const auto it = std::find_if(groups.begin(), groups.end(), same); it != groups.end())
      it->emplace_back(row);
    else
      groups.push_back({row});
  }
  return groups;
}

// Evaluators of other kinds are known by their extra columns: shown where there is no perplexity to show.
bool is_main_extra(const RowRefs& rows, std::string_view column) {
  if (find_column(column) != nullptr || find_style(column) != nullptr ||
      std::find(kUnshown.begin(), kUnshown.end(), column) != kUnshown.end())
    return false;
  return std::any_of(rows.begin(), rows.end(), [&](const Row& row) {
    const Value& value = row.at(column);
    return is_null(row.at("perplexity")) && !is_null(value) &&
           (std::holds_alternative<double>(value) || varies(rows, column));
  });
}

std::vector<std::string> choose_columns(const Table& table, const std::vector<RowRefs>& groups) {
  const RowRefs all(table.rows.begin(), table.rows.end());
  std::vector<std::string> chosen = {"quantizer"};
  const bool labels =
      std::any_of(all.begin(), all.end(), [](const Row& row) { return !options_text(row).empty(); });
  if (labels) chosen.push_back("options");
  for (const std::string_view column : kProtocol)
    if (varies(all, column)) chosen.emplace_back(column);
  for (const Style& style : kMeasured) {
    // One value for a model stands in the title of its group.
    const bool in_titles = style.name == "perplexity_float" &&
                           std::none_of(groups.begin(), groups.end(),
                                        [&](const RowRefs& rows) { return varies(rows, style.name); });
    if (present(all, style.name) && !in_titles) chosen.emplace_back(style.name);
  }
  for (const std::string& column : table.columns)
    if (is_main_extra(all, column)) chosen.push_back(column);
  return chosen;
}

std::string protocol_line(const RowRefs& rows) {
  std::vector<std::string> parts;
  for (const std::string_view column : kProtocol) {
    if (varies(rows, column) || !present(rows, column)) continue;
    const std::string value = cell_text(rows.front(), column);
    if (column != "status" || value != kUsualStatus) parts.push_back(fmt::format("{} {}", column, value));
  }
  return join(parts, ", ");
}

std::string group_title(const RowRefs& rows) {
  const Row& first = rows.front();
  std::string title = is_null(first.at("model")) ? "no model recorded" : cell_text(first, "model");
  if (present(rows, "perplexity_float") && !varies(rows, "perplexity_float"))
    title += " (float perplexity " + cell_text(first, "perplexity_float") + ")";
  return title;
}

}  // namespace

ReadableReport make_readable(const Table& table) {
  const RowRefs all(table.rows.begin(), table.rows.end());
  const std::vector<RowRefs> groups = group_by_model(table);
  const std::vector<std::string> chosen = choose_columns(table, groups);
  ReadableReport report;
  report.protocol = protocol_line(all);
  for (const std::string& name : chosen) {
    const Style* style = find_style(name);
    const bool numeric = std::none_of(all.begin(), all.end(), [&](const Row& row) {
      return std::holds_alternative<std::string>(row.at(name));
    });
    report.columns.push_back(
        {style == nullptr ? name : std::string(style->title), numeric && name != "options"});
  }
  for (const RowRefs& rows : groups) {
    ReadableGroup group;
    group.title = group_title(rows);
    for (const Row& row : rows) {
      std::vector<std::string>& cells = group.cells.emplace_back();
      for (const std::string& name : chosen) cells.push_back(cell_text(row, name));
    }
    report.groups.push_back(std::move(group));
  }
  return report;
}

}  // namespace grinqh
