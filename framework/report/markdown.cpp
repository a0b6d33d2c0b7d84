// Markdown tables, one a model, aligned so that they read well as plain text too.
#include <algorithm>

#include "report/readable.h"
#include "report/report.h"

namespace grinqh {

namespace {

std::string escape(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    if (c == '|' || c == '\\') escaped += '\\';
    escaped += c;
  }
  return escaped;
}

// Code points of UTF-8: all bytes but the continuing ones.
size_t width_of(std::string_view text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

class Markdown : public ReportFormat {
 public:
  explicit Markdown(const Options&) {}
  std::string format(const Table& table) const override {
    const ReadableReport report = make_readable(table);
    std::string text = report.protocol.empty() ? "" : report.protocol + "\n\n";
    for (const ReadableGroup& group : report.groups) {
      text += (&group == report.groups.data() ? "### " : "\n### ") + group.title + "\n\n";
      text += table_text(report.columns, group.cells);
    }
    return text;
  }

 private:
  static std::string table_text(const std::vector<ReadableColumn>& columns,
                                const std::vector<std::vector<std::string>>& cells) {
    std::vector<std::string> lines(cells.size() + 2, "|");
    for (size_t c = 0; c < columns.size(); ++c) {
      std::vector<std::string> column = {escape(columns[c].title)};
      for (const auto& row : cells) column.push_back(escape(row[c]));
      size_t width = 3;
      for (const std::string& cell : column) width = std::max(width, width_of(cell));
      const bool right = columns[c].numeric;
      lines[1] += fmt::format(" {:-<{}}{} |", "", width - right, right ? ":" : "");
      for (size_t i = 0; i < column.size(); ++i) {
        const std::string pad(width - width_of(column[i]), ' ');
        lines[i == 0 ? 0 : i + 1] += fmt::format(" {}{} |", right ? pad : column[i], right ? column[i] : pad);
      }
    }
    std::string text;
    for (const std::string& line : lines) text += line + '\n';
    return text;
  }
};

const Register<ReportFormat, Markdown> plugin{"markdown", "tables for people, one a model"};

}  // namespace

}  // namespace grinqh
