// One self-contained HTML page: no scripts, nothing fetched from elsewhere.
#include "report/readable.h"
#include "report/report.h"

namespace grinqh {

namespace {

constexpr std::string_view kHead = R"(<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Results</title>
<style>
body { font: 15px/1.4 sans-serif; margin: 2em; color: #222; background: #fff; }
table { border-collapse: collapse; margin-bottom: 2em; }
th, td { padding: 0.25em 0.8em; text-align: left; border-bottom: 1px solid #ddd; }
th { border-bottom: 2px solid #222; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
</style>
</head>
<body>
<h1>Results</h1>
)";

std::string escape(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    switch (c) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '"':
        escaped += "&quot;";
        break;
      case '\'':
        escaped += "&#39;";
        break;
      default:
        escaped += c;
    }
  }
  return escaped;
}

std::string cell_text(std::string_view tag, bool numeric, std::string_view text) {
  return fmt::format("<{}{}>{}</{}>", tag, numeric ? " class=\"number\"" : "", escape(text), tag);
}

class Html : public ReportFormat {
 public:
  explicit Html(const Options&) {}
  std::string format(const Table& table) const override {
    const ReadableReport report = make_readable(table);
    std::string text(kHead);
    if (!report.protocol.empty()) text += "<p>" + escape(report.protocol) + "</p>\n";
    for (const ReadableGroup& group : report.groups) {
      text += "<h2>" + escape(group.title) + "</h2>\n<table>\n<thead><tr>";
      for (const ReadableColumn& column : report.columns)
        text += cell_text("th", column.numeric, column.title);
      text += "</tr></thead>\n<tbody>\n";
      for (const auto& cells : group.cells) {
        text += "<tr>";
        for (size_t c = 0; c < cells.size(); ++c)
          text += cell_text("td", report.columns[c].numeric, cells[c]);
        text += "</tr>\n";
      }
      text += "</tbody>\n</table>\n";
    }
    return text + "</body>\n</html>\n";
  }
};

const Register<ReportFormat, Html> plugin{"html", "one self-contained page"};

}  // namespace

}  // namespace grinqh
