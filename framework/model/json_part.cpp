#include "model/json_part.h"

#include <algorithm>

#include "core/error.h"

namespace grinqh {

namespace {

std::string found(const nlohmann::json* value) {
  if (value == nullptr) return "missing";
  constexpr size_t kShown = 60;
  // Escaped to ASCII, so that the cut never falls into a character.
  std::string text = value->dump(-1, ' ', true);
  if (text.size() > kShown) text = text.substr(0, kShown) + "...";
  return text;
}

}  // namespace

std::string json_text(std::string_view text) { return nlohmann::json(text).dump(); }

JsonPart JsonPart::operator[](std::string_view key) const {
  if (value_ == nullptr || !value_->is_object()) refuse("an object");
  const auto it = value_->find(key);
  return {it == value_->end() ? nullptr : &*it, file_,
          path_.empty() ? std::string(key) : fmt::format("{}.{}", path_, key)};
}

std::vector<JsonPart> JsonPart::items() const {
  if (value_ == nullptr || !value_->is_array()) refuse("an array");
  std::vector<JsonPart> parts;
  for (const nlohmann::json& item : *value_)
    parts.push_back({&item, file_, fmt::format("{}[{}]", path_, parts.size())});
  return parts;
}

std::string JsonPart::text() const {
  if (value_ == nullptr || !value_->is_string()) refuse("a string");
  return value_->get<std::string>();
}

bool JsonPart::boolean() const {
  if (value_ == nullptr || !value_->is_boolean()) refuse("true or false");
  return value_->get<bool>();
}

int64_t JsonPart::integer() const {
  if (value_ == nullptr || !value_->is_number_integer()) refuse("an integer");
  if (value_->is_number_unsigned() && value_->get<uint64_t>() > uint64_t{INT64_MAX}) refuse("an id");
  return value_->get<int64_t>();
}

void JsonPart::only(std::initializer_list<std::string_view> keys) const {
  if (value_ == nullptr || !value_->is_object()) refuse("an object");
  for (const auto& [key, value] : value_->items()) {
    if (std::find(keys.begin(), keys.end(), key) != keys.end()) continue;
    bad_input("{}: {}{}{} is not supported; supported here: {}", file_, path_, path_.empty() ? "" : ".", key,
              fmt::join(keys, ", "));
  }
}

void JsonPart::must_be_off(const nlohmann::json& neutral) const {
  if (!null() && *value_ != neutral)
    refuse(neutral.is_null() ? "null" : fmt::format("null or {}", neutral.dump()));
}

void JsonPart::refuse(std::string_view supported) const {
  const bool missing = value_ == nullptr;
  bad_input("{}: {} is {}; {}: {}", file_, path_.empty() ? "the file's content" : path_, found(value_),
            missing ? "expected" : "supported", supported);
}

}  // namespace grinqh
