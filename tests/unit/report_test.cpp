#include "report/report.h"

#include <gmock/gmock.h>

#include <cmath>
#include <fstream>
#include <limits>

#include "core/error.h"
#include "store/columns.h"
#include "store/result_file.h"
#include "support.h"

namespace grinqh {
namespace {

using grinqh::testing::TempDir;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;
namespace fs = std::filesystem;

struct Cell {
  std::string model = "llama", quantizer = "rtn", options = R"({"bits":4,"group":128})";
  int64_t order = 0;
  double perplexity = 7.0;
  std::string label = "", policy = "full";
  bool evaluated = true;
};

void write_cell(const fs::path& path, const Cell& cell) {
  ResultWriter writer(path, path.filename().string());
  writer.text("model", cell.model);
  writer.text("quantizer", cell.quantizer);
  writer.text("options", cell.options);
  writer.text("policy", cell.policy);
  writer.text("status", "ok");
  writer.integer("seed", 0);
  writer.integer("order", cell.order);
  if (!cell.label.empty()) writer.text("label", cell.label);
  if (cell.evaluated) {
    writer.text("dataset", "held_out.txt");
    writer.text("phase", "decode");
    writer.integer("context", 1024);
    writer.integer("tokens", 20480);
    writer.scalar("perplexity", cell.perplexity, "1");
    writer.scalar("perplexity_float", 6.5, "1");
    writer.scalar("kl_mean", 0.1 + 0.2, "nat");
    writer.scalar("kl_median", 1e-7 / 3, "nat");
    writer.scalar("quantize_seconds", 12.34, "s");
  }
  writer.commit();
}

std::string report(const fs::path& source, const std::string& format, const std::string& sort = "") {
  return format_report(std::vector{source}, format, sort);
}

std::string refusal(std::vector<fs::path> sources, const std::string& format = "json",
                    const std::string& sort = "") {
  try {
    format_report(sources, format, sort);
  } catch (const BadInput& error) {
    return error.what();
  }
  return "a report was made";
}

// Labels of the rows in their order.
std::vector<std::string> labels(const fs::path& source, const std::string& sort) {
  std::vector<std::string> found;
  for (const Json& row : Json::parse(report(source, "json", sort))) found.push_back(row.at("label"));
  return found;
}

// RFC 4180, written from its grammar: records of fields, plain or quoted.
std::vector<std::vector<std::string>> parse_csv(const std::string& text) {
  std::vector<std::vector<std::string>> records(1, std::vector<std::string>(1));
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    std::string& field = records.back().back();
    if (quoted) {
      if (text[i] != '"')
        field += text[i];
      else if (i + 1 < text.size() && text[i + 1] == '"')
        field += text[i++];
      else
        quoted = false;
    } else if (text[i] == '"') {
      quoted = true;
    } else if (text[i] == ',') {
      records.back().emplace_back();
    } else if (text[i] == '\n') {
      records.emplace_back(1);
    } else {
      field += text[i];
    }
  }
  EXPECT_FALSE(quoted);
  EXPECT_THAT(records.back(), ElementsAre(""));  // the last line ends
  records.pop_back();
  return records;
}

TEST(Report, JsonHasEveryColumnThenTheExtraOnes) {
  const TempDir dir;
  write_cell(dir / "a.h5", {.label = "b4"});
  const Json rows = Json::parse(report(dir.path(), "json"));
  ASSERT_EQ(rows.size(), 1U);
  std::vector<std::string> keys;
  for (const auto& [key, value] : rows[0].items()) keys.push_back(key);
  EXPECT_THAT(keys,
              ElementsAre("model", "quantizer", "policy", "options", "device", "dataset", "phase", "context",
                          "tokens", "perplexity", "perplexity_float", "kl_mean", "kl_p99", "top1_agreement",
                          "stored_bits", "read_bits_codes", "read_bits_total", "quantize_seconds",
                          "evaluate_seconds", "seed", "status", "kl_median", "label", "order"));
  EXPECT_EQ(rows[0]["options"]["group"], 128);
  EXPECT_EQ(rows[0]["context"], 1024);
  EXPECT_TRUE(rows[0]["context"].is_number_integer());
  EXPECT_EQ(rows[0]["kl_mean"].get<double>(), 0.1 + 0.2);
  EXPECT_EQ(rows[0]["kl_median"].get<double>(), 1e-7 / 3);
  EXPECT_TRUE(rows[0]["kl_p99"].is_null());
  EXPECT_TRUE(rows[0]["device"].is_null());
}

TEST(Report, JsonWritesNonFiniteNumbersAsNullAndMendsBrokenText) {
  const TempDir dir;
  write_cell(dir / "a.h5", {.perplexity = std::numeric_limits<double>::infinity(), .label = "caf\xe9"});
  const Json rows = Json::parse(report(dir.path(), "json"));
  EXPECT_TRUE(rows[0]["perplexity"].is_null());
  EXPECT_EQ(rows[0]["label"], "caf\uFFFD");
}

TEST(Report, CsvReadsBackExactly) {
  const TempDir dir;
  const std::string awkward = "a, \"quoted\"\r\nlabel";
  write_cell(dir / "a.h5", {.order = 0, .label = awkward});
  write_cell(dir / "b.h5", {.order = 1, .perplexity = std::nan(""), .policy = ""});
  const auto records = parse_csv(report(dir.path(), "csv"));
  ASSERT_EQ(records.size(), 3U);
  for (const auto& record : records) ASSERT_EQ(record.size(), kRowColumns.size() + 3);
  for (size_t i = 0; i < kRowColumns.size(); ++i) EXPECT_EQ(records[0][i], kRowColumns[i].name);
  const auto field = [&](size_t row, std::string_view name) {
    const auto column = std::find(records[0].begin(), records[0].end(), name) - records[0].begin();
    return records[row][static_cast<size_t>(column)];
  };
  EXPECT_EQ(field(1, "label"), awkward);
  EXPECT_EQ(field(1, "options"), R"({"bits":4,"group":128})");
  EXPECT_EQ(std::stod(field(1, "kl_mean")), 0.1 + 0.2);
  EXPECT_EQ(std::stod(field(1, "kl_median")), 1e-7 / 3);
  EXPECT_EQ(field(1, "kl_p99"), "");
  EXPECT_EQ(field(2, "perplexity"), "nan");
  EXPECT_EQ(field(2, "label"), "");
}

TEST(Report, DefaultOrderIsModelQuantizerThenPositionInTheSweep) {
  const TempDir dir;
  write_cell(dir / "1.h5", {.model = "qwen", .quantizer = "awq", .order = 0, .label = "qwen awq"});
  write_cell(dir / "2.h5", {.quantizer = "rtn", .order = 10, .label = "rtn 10"});
  write_cell(dir / "3.h5", {.quantizer = "rtn", .order = 9, .label = "rtn 9"});
  write_cell(dir / "4.h5", {.quantizer = "gptq", .order = 11, .label = "gptq 11"});
  EXPECT_THAT(labels(dir.path(), ""), ElementsAre("gptq 11", "rtn 9", "rtn 10", "qwen awq"));
}

TEST(Report, SortsByNumberOrTextWithMissingValuesLast) {
  const TempDir dir;
  write_cell(dir / "1.h5", {.order = 1, .label = "absent", .policy = "c", .evaluated = false});
  write_cell(dir / "2.h5", {.order = 2, .perplexity = 100, .label = "100", .policy = "d"});
  write_cell(dir / "3.h5", {.order = 3, .perplexity = std::nan(""), .label = "nan", .policy = "a"});
  write_cell(dir / "4.h5", {.order = 4, .perplexity = 20, .label = "20", .policy = "b"});
  write_cell(dir / "5.h5", {.order = 5, .perplexity = 20, .label = "20 later", .policy = "e"});
  EXPECT_THAT(labels(dir.path(), "perplexity"), ElementsAre("20", "20 later", "100", "nan", "absent"));
  EXPECT_THAT(labels(dir.path(), "policy"), ElementsAre("nan", "20", "absent", "100", "20 later"));
  EXPECT_THAT(labels(dir.path(), "kl_median"), ElementsAre("100", "nan", "20", "20 later", "absent"));
  EXPECT_THAT(refusal({dir.path()}, "json", "perplexty"),
              AllOf(StartsWith("--sort: unknown column 'perplexty'; known: model, quantizer"),
                    HasSubstr("kl_median"), HasSubstr("did you mean 'perplexity'?")));
}

TEST(Report, MarkdownTellsTheProtocolOnceAndRoundsForPeople) {
  const TempDir dir;
  write_cell(dir / "1.h5", {.order = 1, .perplexity = 7.12345, .label = "b4 g128"});
  write_cell(dir / "2.h5", {.order = 2, .perplexity = 1234567890.0});
  write_cell(dir / "3.h5", {.model = "qwen", .order = 3, .perplexity = 10, .label = "a|b"});
  EXPECT_EQ(report(dir.path(), "markdown"),
            R"(dataset held_out.txt, phase decode, context 1024, tokens 20480, policy full, seed 0

### llama (float perplexity 6.500)

| quantizer | options          | perplexity | KL mean | quantize s |
| --------- | ---------------- | ---------: | ------: | ---------: |
| rtn       | b4 g128          |      7.123 | 0.30000 |       12.3 |
| rtn       | bits=4 group=128 |  1.235e+09 | 0.30000 |       12.3 |

### qwen (float perplexity 6.500)

| quantizer | options | perplexity | KL mean | quantize s |
| --------- | ------- | ---------: | ------: | ---------: |
| rtn       | a\|b    |     10.000 | 0.30000 |       12.3 |
)");
}

TEST(Report, MarkdownMakesColumnsOfWhatVaries) {
  const TempDir dir;
  write_cell(dir / "1.h5", {.order = 1, .policy = "full"});
  write_cell(dir / "2.h5", {.order = 2, .policy = "λ-rule"});
  EXPECT_EQ(report(dir.path(), "markdown"),
            R"(dataset held_out.txt, phase decode, context 1024, tokens 20480, seed 0

### llama (float perplexity 6.500)

| quantizer | options          | policy | perplexity | KL mean | quantize s |
| --------- | ---------------- | ------ | ---------: | ------: | ---------: |
| rtn       | bits=4 group=128 | full   |      7.000 | 0.30000 |       12.3 |
| rtn       | bits=4 group=128 | λ-rule |      7.000 | 0.30000 |       12.3 |
)");
}

TEST(Report, MarkdownShowsWhatAnEvaluatorWithoutPerplexityMeasured) {
  const TempDir dir;
  ResultWriter writer(dir / "a.h5", "d");
  writer.text("quantizer", "rtn");
  writer.text("status", "failed");
  writer.scalar("accuracy", 0.7512345678, "1");
  writer.commit();
  EXPECT_EQ(report(dir.path(), "markdown"), R"(status failed

### no model recorded

| quantizer | accuracy |
| --------- | -------: |
| rtn       | 0.751235 |
)");
}

TEST(Report, LatexIsEscaped) {
  const TempDir dir;
  write_cell(dir / "a.h5", {.model = "llama_tiny", .label = R"([50%] & $x_1^2 # {\~})"});
  EXPECT_EQ(report(dir.path(), "latex"),
            R"(% \usepackage[T1]{fontenc} \usepackage{booktabs}
% dataset held_out.txt, phase decode, context 1024, tokens 20480, policy full, seed 0
\begin{tabular}{llrrr}
  \toprule
  quantizer & options & perplexity & KL mean & quantize s \\
  \midrule
  \multicolumn{5}{l}{\textit{llama\_tiny (float perplexity 6.500)}} \\
  rtn & {}[50\%] \& \$x\_1\textasciicircum{}2 \# \{\textbackslash{}\textasciitilde{}\} & 7.000 & 0.30000 & 12.3 \\
  \bottomrule
\end{tabular}
)");
}

TEST(Report, HtmlIsEscapedAndSelfContained) {
  const TempDir dir;
  write_cell(dir / "a.h5", {.model = "<script>alert('x')</script>", .label = "a & \"b\" < c"});
  const std::string page = report(dir.path(), "html");
  EXPECT_THAT(page, StartsWith("<!DOCTYPE html>"));
  EXPECT_THAT(page, HasSubstr("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;"));
  EXPECT_THAT(page, HasSubstr("<td>a &amp; &quot;b&quot; &lt; c</td><td class=\"number\">7.000</td>"));
  EXPECT_THAT(page, AllOf(Not(HasSubstr("<script")), Not(HasSubstr("http")), Not(HasSubstr("src="))));
}

TEST(Report, FoldersAreSearchedButForCachesAndParts) {
  const TempDir dir;
  fs::create_directories(dir / "sub" / "cache" / "deep");
  write_cell(dir / "a.h5", {.order = 1, .label = "a"});
  write_cell(dir / "sub" / "b.h5", {.order = 2, .label = "b"});
  write_cell(dir / "sub" / "cache" / "deep" / "c.h5", {.order = 3, .label = "c"});
  std::ofstream(dir / "d.h5.part") << "half";
  std::ofstream(dir / "table.csv") << "x";
  EXPECT_THAT(labels(dir.path(), ""), ElementsAre("a", "b"));
  EXPECT_THAT(labels(dir / "sub" / "b.h5", ""), ElementsAre("b"));
  const std::vector<fs::path> overlapping = {dir / "a.h5", dir.path(), dir / "sub"};
  EXPECT_EQ(Json::parse(format_report(overlapping, "json", "")).size(), 2U);
}

TEST(Report, BadSourcesAndFormatsAreBadInput) {
  const TempDir dir;
  EXPECT_THAT(refusal({dir.path()}), HasSubstr(dir.path().string() + ": no results (*.h5) in this folder"));
  EXPECT_THAT(refusal({dir / "none"}), HasSubstr("none: cannot read: No such file or directory"));
  EXPECT_THAT(refusal({}), HasSubstr("no files or folders given"));
  EXPECT_THAT(refusal({dir.path()}, "jsn"),
              HasSubstr("unknown report format 'jsn'; known: csv, html, json, latex, markdown"));
  std::ofstream(dir / "a.h5") << "text";
  EXPECT_THAT(refusal({dir.path()}), HasSubstr("a.h5: not a result"));
  write_cell(dir / "a.h5", {.options = "[1, 2]"});
  EXPECT_THAT(refusal({dir.path()}), HasSubstr("a.h5: column 'options' is not a JSON object"));
  write_cell(dir / "a.h5", {.options = "{bits"});
  EXPECT_THAT(refusal({dir.path()}), HasSubstr("a.h5: column 'options' is not a JSON object"));
}

}  // namespace
}  // namespace grinqh
