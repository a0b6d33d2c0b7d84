#include "architecture/rules.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <sstream>

#include "core/error.h"
#include "core/text.h"

namespace grinqh::architecture {
namespace {

constexpr int kHeaderLines = 150;
constexpr int kSourceLines = 500;

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream{std::string(text)};
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

std::vector<std::string> words(std::string_view text) {
  std::istringstream stream{std::string(text)};
  std::vector<std::string> result;
  for (std::string word; stream >> word;) result.push_back(word);
  return result;
}

bool is_plugin_root(std::string_view name) { return name == "quantizers" || name == "baselines"; }

// The folder that an include path leads to from either include root (framework/ and the repository's); a bare
// name is a file beside the one that includes it.
std::string folder_of_include(const std::string& name) {
  if (name.find('/') == std::string::npos) return "";
  const std::string folder = folder_of(name);
  return folder.empty() ? name.substr(0, name.find('/')) : folder;
}

// Moves past a raw string whose R"( starts at `quote`, the position of its quotation mark.
size_t end_of_raw_string(std::string_view text, size_t quote) {
  const size_t open = text.find('(', quote);
  if (open == std::string_view::npos) return text.size();
  const std::string close = fmt::format("){}\"", text.substr(quote + 1, open - quote - 1));
  const size_t end = text.find(close, open);
  return end == std::string_view::npos ? text.size() : end + close.size();
}

}  // namespace

std::vector<Include> includes_of(std::string_view text) {
  std::vector<Include> result;
  int number = 0;
  for (const std::string& line : split(text, '\n')) {
    ++number;
    size_t at = line.find_first_not_of(" \t");
    if (at == std::string::npos || line[at] != '#') continue;
    at = line.find_first_not_of(" \t", at + 1);
    if (at == std::string::npos || line.compare(at, 7, "include") != 0) continue;
    const size_t open = line.find_first_of("<\"", at);
    if (open == std::string::npos) continue;
    const size_t close = line.find(line[open] == '<' ? '>' : '"', open + 1);
    if (close == std::string::npos) continue;
    result.push_back({number, line.substr(open + 1, close - open - 1), line[open] == '"'});
  }
  return result;
}

std::vector<Literal> string_literals_of(std::string_view text) {
  std::vector<Literal> result;
  int line = 1;
  size_t i = 0;
  const auto skip_to = [&](size_t end) {
    end = std::min(end, text.size());
    line += static_cast<int>(std::count(text.begin() + i, text.begin() + end, '\n'));
    i = end;
  };
  const auto past = [&](std::string_view mark) {
    const size_t found = text.find(mark, i + 2);
    return found == std::string_view::npos ? text.size() : found + mark.size();
  };
  while (i < text.size()) {
    const char c = text[i];
    const char before = i ? text[i - 1] : ' ';
    if (text.substr(i, 2) == "//") {
      skip_to(text.find('\n', i));
    } else if (text.substr(i, 2) == "/*") {
      skip_to(past("*/"));
    } else if (c == '"' && before == 'R') {
      skip_to(end_of_raw_string(text, i));
    } else if (c == '"' || (c == '\'' && !std::isalnum(static_cast<unsigned char>(before)))) {
      size_t end = i + 1;
      while (end < text.size() && text[end] != c && text[end] != '\n') end += text[end] == '\\' ? 2 : 1;
      if (c == '"') result.push_back({line, std::string(text.substr(i + 1, end - i - 1))});
      skip_to(end + 1);
    } else {
      skip_to(i + 1);
    }
  }
  return result;
}

std::string folder_of(std::string_view path) {
  const std::vector<std::string> parts = split(path, '/');
  if (parts.size() < 3) return "";
  if (parts[0] == "framework") return parts[1];
  if (parts[0] == "kernels" || is_plugin_root(parts[0])) return parts[0] + "/" + parts[1];
  return "";
}

bool is_test(std::string_view path) { return path.starts_with("tests/") || path.ends_with("_test.cpp"); }
bool is_header(std::string_view path) { return path.ends_with(".h") || path.ends_with(".cuh"); }

Layers Layers::parse(std::string_view table) {
  Layers layers;
  int number = 0;
  for (const std::string& line : split(table, '\n')) {
    ++number;
    if (words(line).empty() || line.starts_with('#')) continue;
    const size_t colon = line.find(':');
    const std::vector<std::string> folder = words(std::string_view(line).substr(0, colon));
    if (colon == std::string::npos || folder.size() != 1)
      bad_input("layers.txt:{}: '{}' is not 'FOLDER : WHAT IT MAY INCLUDE'", number, line);
    layers.rules_.push_back({number, folder[0], words(std::string_view(line).substr(colon + 1))});
  }
  return layers;
}

const Layers::Rule* Layers::find(std::string_view folder) const {
  for (const Rule& rule : rules_)
    if (glob_match(rule.folder, folder)) return &rule;
  return nullptr;
}

bool Layers::confined(std::string_view library) const {
  return std::any_of(rules_.begin(), rules_.end(), [&](const Rule& rule) {
    return std::find(rule.allowed.begin(), rule.allowed.end(), library) != rule.allowed.end();
  });
}

Violations Layers::check_includes(const SourceFile& file) const {
  const std::string from = folder_of(file.path);
  if (from.empty() || is_test(file.path)) return {};
  const Rule* rule = find(from);
  if (!rule) return {fmt::format("{}:1: layers.txt has no line for the folder {}", file.path, from)};

  const std::string rule_text =
      fmt::format("layers.txt:{}: {} : {}", rule->line, rule->folder,
                  rule->allowed.empty() ? "nothing else" : join(rule->allowed, " "));
  const auto allows = [&](const std::string& name) {
    return std::any_of(rule->allowed.begin(), rule->allowed.end(),
                       [&](const std::string& pattern) { return glob_match(pattern, name); });
  };
  Violations violations;
  for (const Include& include : includes_of(file.text)) {
    const auto report = [&](std::string_view what) {
      violations.push_back(fmt::format("{}:{}: {} ({})", file.path, include.line, what, rule_text));
    };
    const std::string to = folder_of_include(include.name);
    const Rule* target = to.empty() ? nullptr : find(to);
    if (!target && !include.quoted) {
      const std::string library = "<" + include.name + ">";
      if (confined(library) && !allows(library)) report(fmt::format("{} may not include {}", from, library));
    } else if (include.name.find("..") != std::string::npos || (!target && !to.empty())) {
      report(
          fmt::format("'{}' is no path from framework/ or the repository's root to a layer", include.name));
    } else if (to.empty() ? confined(include.name) && !allows(include.name)
                          : to != from && !allows(to) && !allows(include.name)) {
      report(fmt::format("{} may not include {}", from, include.name));
    }
  }
  return violations;
}

Violations check_header_form(const SourceFile& header) {
  Violations violations;
  if (!header.text.starts_with("//"))
    violations.push_back(header.path + ":1: a header starts with a comment that says what it is for");
  const std::vector<std::string> lines = split(header.text, '\n');
  // Highway compiles "-inl.h" once for every instruction set.
  const bool again = header.path.ends_with("-inl.h");
  if (again && header.text.find("== defined(HWY_TARGET_TOGGLE)") == std::string::npos)
    violations.push_back(header.path + ":1: a header -inl.h has Highway's guard for every instruction set");
  if (!again && std::find(lines.begin(), lines.end(), "#pragma once") == lines.end())
    violations.push_back(header.path + ":1: a header has a line #pragma once");
  return violations;
}

Violations check_length(const SourceFile& file) {
  const int lines = static_cast<int>(split(file.text, '\n').size());
  const int most = is_header(file.path) ? kHeaderLines : kSourceLines;
  if (lines <= most) return {};
  return {
      fmt::format("{}:{}: {} lines, at most {} allowed: split it by idea", file.path, most + 1, lines, most)};
}

Violations check_method_names(const SourceFile& file, std::span<const std::string> methods) {
  if (is_plugin_root(file.path.substr(0, file.path.find('/'))) || is_test(file.path)) return {};
  Violations violations;
  for (const Literal& literal : string_literals_of(file.text))
    if (std::find(methods.begin(), methods.end(), literal.text) != methods.end())
      violations.push_back(fmt::format(
          "{}:{}: \"{}\" names a method: only plugins, tests and experiments know methods by name", file.path,
          literal.line, literal.text));
  return violations;
}

Violations check_plugin_folder(std::string_view folder, std::span<const std::string> files) {
  const std::string name(folder.substr(folder.rfind('/') + 1));
  std::vector<std::string> needed = {name + ".cpp", name + ".toml", name + "_test.cpp"};
  if (folder.starts_with("baselines/")) needed.push_back("PROVENANCE.md");
  Violations violations;
  for (const std::string& file : needed)
    if (std::find(files.begin(), files.end(), fmt::format("{}/{}", folder, file)) == files.end())
      violations.push_back(fmt::format("{}:1: the folder lacks {}", folder, file));
  for (const std::string& file : files)
    if (is_header(file))
      violations.push_back(file + ":1: a plugin has no header, so that nothing can depend on it");
  return violations;
}

}  // namespace grinqh::architecture
