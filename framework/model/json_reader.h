// Reading JSON files that came from elsewhere, key by key: whatever is not as expected is BadInput that names
// file and key, never an exception of the JSON library.
#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace grinqh {

// Sorted, unlike Json, whose insertion is linear: a header of n tensors would take n^2 steps.
using JsonTree = nlohmann::json;

// Foreign text in a one-line message: in quotes, unprintable and non-ASCII bytes as \xNN, cut when long.
std::string in_quotes(std::string_view text);

// Both ends are allowed.
struct IntegerRange {
  int64_t low, high;
};
struct RealRange {
  double low, high;
};

class JsonObject {
 public:
  // `where` begins every message. BadInput if the text is not one object of valid JSON, nests too deep or
  // repeats a key (of which the library would silently keep one).
  static JsonObject parse(std::string_view text, std::string where);
  static JsonObject read(const std::filesystem::path& file, std::string_view what);

  bool has(std::string_view key) const;  // present and not null
  bool is_list(std::string_view key) const;
  std::vector<std::string> keys() const;

  int64_t integer(std::string_view key, IntegerRange range) const;
  double real(std::string_view key, RealRange range) const;  // an integer will do
  bool boolean(std::string_view key) const;
  std::string text(std::string_view key) const;
  std::vector<int64_t> integers(std::string_view key, IntegerRange range) const;
  std::vector<std::string> texts(std::string_view key) const;
  JsonObject object(std::string_view key) const;

  // The same for keys that may be absent or null.
  int64_t integer_or(int64_t fallback, std::string_view key, IntegerRange range) const;
  double real_or(double fallback, std::string_view key, RealRange range) const;
  bool boolean_or(bool fallback, std::string_view key) const;

  // "where: 'key' is <what was found>, expected <expected>"
  [[noreturn]] void refuse(std::string_view key, std::string_view expected) const;
  const std::string& where() const { return where_; }
  bool operator==(const JsonObject& other) const { return *tree_ == *other.tree_; }

 private:
  JsonObject(std::string where, std::shared_ptr<const JsonTree> tree);
  const JsonTree& at(std::string_view key, std::string_view expected) const;

  std::string where_;
  std::shared_ptr<const JsonTree> tree_;  // an object; shares ownership of the whole file's tree
};

}  // namespace grinqh
