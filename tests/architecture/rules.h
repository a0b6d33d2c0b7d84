// The rules of the source tree as functions on text, so that each can be shown to fail on an example.
// Paths are relative to the repository, with '/'. A violation reads "path:line: what is wrong and which
// rule".
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace grinqh::architecture {

struct SourceFile {
  std::string path;
  std::string text;
};
using Violations = std::vector<std::string>;

struct Include {
  int line;
  std::string name;
  bool quoted;
};
std::vector<Include> includes_of(std::string_view text);

struct Literal {
  int line;
  std::string text;  // between the quotes, escapes as written
};
// String literals outside comments.
std::vector<Literal> string_literals_of(std::string_view text);

// "core" for framework/core/..., "kernels/dense" for kernels/dense/...; "" for what belongs to no layer.
std::string folder_of(std::string_view path);
bool is_test(std::string_view path);
bool is_header(std::string_view path);

// layers.txt
class Layers {
 public:
  // Throws BadInput for a line that is no rule.
  static Layers parse(std::string_view table);
  Violations check_includes(const SourceFile& file) const;

 private:
  struct Rule {
    int line;
    std::string folder;                // may hold *
    std::vector<std::string> allowed;  // folders, headers, <libraries>
  };
  const Rule* find(std::string_view folder) const;
  bool confined(std::string_view library) const;
  std::vector<Rule> rules_;
};

Violations check_header_form(const SourceFile& header);
Violations check_length(const SourceFile& file);
// No literal outside plugins and tests may be the name of a method.
Violations check_method_names(const SourceFile& file, std::span<const std::string> methods);
// `files` are the paths of one plugin folder: NAME.cpp, NAME.toml, NAME_test.cpp and no header; a baseline
// states its PROVENANCE.md too.
Violations check_plugin_folder(std::string_view folder, std::span<const std::string> files);

}  // namespace grinqh::architecture
