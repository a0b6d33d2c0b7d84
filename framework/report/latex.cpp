// A LaTeX tabular with the rules of the package booktabs, to be put into a table of a paper.
#include "report/readable.h"
#include "report/report.h"

namespace grinqh {

namespace {

std::string escape(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    switch (c) {
      case '\\':
        escaped += "\\textbackslash{}";
        break;
      case '~':
        escaped += "\\textasciitilde{}";
        break;
      case '^':
        escaped += "\\textasciicircum{}";
        break;
      case '<':
        escaped += "\\textless{}";
        break;
      case '>':
        escaped += "\\textgreater{}";
        break;
      case '|':
        escaped += "\\textbar{}";
        break;
      case '"':
        escaped += "\\textquotedbl{}";
        break;
      case '&':
      case '%':
      case '$':
      case '#':
      case '_':
      case '{':
      case '}':
        escaped += '\\';
        [[fallthrough]];
      default:
        escaped += c;
    }
  }
  return escaped;
}

// A cell that begins with '[' would be taken for the optional argument of the row end before it.
std::string row_text(const std::vector<std::string>& cells) {
  std::string text;
  for (const std::string& cell : cells) {
    const std::string escaped = escape(cell);
    text += (&cell == cells.data() ? "  " : " & ") + (escaped.starts_with('[') ? "{}" + escaped : escaped);
  }
  return text + " \\\\\n";
}

class Latex : public ReportFormat {
 public:
  explicit Latex(const Options&) {}
  std::string format(const Table& table) const override {
    const ReadableReport report = make_readable(table);
    std::string text = "% \\usepackage[T1]{fontenc} \\usepackage{booktabs}\n";
    if (!report.protocol.empty()) text += "% " + report.protocol + '\n';
    text += "\\begin{tabular}{";
    std::vector<std::string> titles;
    for (const ReadableColumn& column : report.columns) {
      text += column.numeric ? 'r' : 'l';
      titles.push_back(column.title);
    }
    text += "}\n  \\toprule\n" + row_text(titles);
    for (const ReadableGroup& group : report.groups) {
      text += fmt::format("  \\midrule\n  \\multicolumn{{{}}}{{l}}{{\\textit{{{}}}}} \\\\\n", titles.size(),
                          escape(group.title));
      for (const auto& cells : group.cells) text += row_text(cells);
    }
    return text + "  \\bottomrule\n\\end{tabular}\n";
  }
};

const Register<ReportFormat, Latex> plugin{"latex", "a booktabs tabular for a paper"};

}  // namespace

}  // namespace grinqh
