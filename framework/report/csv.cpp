// Comma-separated values, quoted as RFC 4180 says: all columns, one line a row, numbers in full precision.
#include "report/report.h"

namespace grinqh {

namespace {

// Empty text is quoted, which tells it from a value that is absent.
std::string field(const Value& value) {
  const std::string text = exact_text(value);
  if (text.find_first_of(",\"\r\n") == std::string::npos && (is_null(value) || !text.empty())) return text;
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? "\"\"" : std::string(1, c);
  return quoted + '"';
}

class Csv : public ReportFormat {
 public:
  explicit Csv(const Options&) {}
  std::string format(const Table& table) const override {
    std::string text;
    const auto add_line = [&](auto value_of) {
      for (const std::string& column : table.columns) {
        if (&column != table.columns.data()) text += ',';
        text += field(value_of(column));
      }
      text += '\n';
    };
    add_line([](const std::string& column) { return Value(column); });
    for (const Row& row : table.rows) add_line([&](const std::string& column) { return row.at(column); });
    return text;
  }
};

const Register<ReportFormat, Csv> plugin{"csv",
                                         "all columns in full precision, for spreadsheets and scripts"};

}  // namespace

}  // namespace grinqh
