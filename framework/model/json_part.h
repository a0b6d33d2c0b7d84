// A part of a parsed JSON file together with its place in it, so that every complaint names the file, the
// JSON path, what was found and what is supported.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace grinqh {

// `text` as a JSON string: quoted, on one line.
std::string json_text(std::string_view text);

// Refers to the document and the file name, which must outlive it. All accessors throw BadInput.
class JsonPart {
 public:
  JsonPart(const nlohmann::json& document, std::string_view file) : JsonPart(&document, file, "") {}

  // An absent key gives an absent part, so that the place is known when something is expected there.
  JsonPart operator[](std::string_view key) const;
  std::vector<JsonPart> items() const;
  std::string text() const;
  bool boolean() const;
  int64_t integer() const;

  bool absent() const { return value_ == nullptr; }
  bool null() const { return absent() || value_->is_null(); }
  const std::string& path() const { return path_; }

  // Nothing but these keys: an option that is not known might change the result.
  void only(std::initializer_list<std::string_view> keys) const;
  // Null, absent or equal to `neutral`, the value that switches the option off.
  void must_be_off(const nlohmann::json& neutral) const;
  [[noreturn]] void refuse(std::string_view supported) const;

 private:
  JsonPart(const nlohmann::json* value, std::string_view file, std::string path)
      : value_(value), file_(file), path_(std::move(path)) {}

  const nlohmann::json* value_;
  std::string_view file_;
  std::string path_;
};

}  // namespace grinqh
