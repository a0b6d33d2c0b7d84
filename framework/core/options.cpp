#include "core/options.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/text.h"

namespace grinqh {

std::string_view to_string(OptionType type) {
  switch (type) {
    case OptionType::boolean:
      return "true or false";
    case OptionType::integer:
      return "an integer";
    case OptionType::real:
      return "a number";
    case OptionType::text:
      return "a string";
    case OptionType::integer_list:
      return "a list of integers";
    case OptionType::real_list:
      return "a list of numbers";
    case OptionType::text_list:
      return "a list of strings";
  }
  return "";
}

bool is_list(OptionType type) {
  return type == OptionType::integer_list || type == OptionType::real_list || type == OptionType::text_list;
}

namespace option_detail {

namespace {

[[noreturn]] void wrong_type(const std::string& key, const Setting& setting, OptionType expected) {
  bad_input("{}: {} = {}: expected {}", setting.where, key, setting.value.dump(), to_string(expected));
}

template <class Int>
Int to_integer(const std::string& key, const Setting& setting, const Json& value, OptionType expected) {
  if (!value.is_number_integer()) wrong_type(key, setting, expected);
  const int64_t wide = value.get<int64_t>();
  if (wide < std::numeric_limits<Int>::min() || wide > std::numeric_limits<Int>::max())
    bad_input("{}: {} = {}: allowed are integers of {} bits", setting.where, key, wide, sizeof(Int) * 8);
  return static_cast<Int>(wide);
}

double to_real(const std::string& key, const Setting& setting, const Json& value, OptionType expected) {
  if (!value.is_number()) wrong_type(key, setting, expected);
  const double real = value.get<double>();
  if (!std::isfinite(real)) bad_input("{}: {} = {}: expected a finite number", setting.where, key, real);
  return real;
}

template <class T, class Convert>
void assign_list(const std::string& key, const Setting& setting, std::vector<T>& field, OptionType type,
                 Convert convert) {
  if (!setting.value.is_array()) wrong_type(key, setting, type);
  field.clear();
  for (const Json& element : setting.value) field.push_back(convert(element));
}

}  // namespace

void assign(const std::string& key, const Setting& setting, bool& field) {
  if (!setting.value.is_boolean()) wrong_type(key, setting, OptionType::boolean);
  field = setting.value.get<bool>();
}

void assign(const std::string& key, const Setting& setting, int& field) {
  field = to_integer<int>(key, setting, setting.value, OptionType::integer);
}

void assign(const std::string& key, const Setting& setting, int64_t& field) {
  field = to_integer<int64_t>(key, setting, setting.value, OptionType::integer);
}

void assign(const std::string& key, const Setting& setting, double& field) {
  field = to_real(key, setting, setting.value, OptionType::real);
}

void assign(const std::string& key, const Setting& setting, std::string& field) {
  if (!setting.value.is_string()) wrong_type(key, setting, OptionType::text);
  field = setting.value.get<std::string>();
}

void assign(const std::string& key, const Setting& setting, std::vector<int>& field) {
  assign_list(key, setting, field, OptionType::integer_list, [&](const Json& element) {
    return to_integer<int>(key, setting, element, OptionType::integer_list);
  });
}

void assign(const std::string& key, const Setting& setting, std::vector<double>& field) {
  assign_list(key, setting, field, OptionType::real_list,
              [&](const Json& element) { return to_real(key, setting, element, OptionType::real_list); });
}

void assign(const std::string& key, const Setting& setting, std::vector<std::string>& field) {
  assign_list(key, setting, field, OptionType::text_list, [&](const Json& element) {
    if (!element.is_string()) wrong_type(key, setting, OptionType::text_list);
    return element.get<std::string>();
  });
}

void check_range(const std::string& key, const Setting& setting, Range range) {
  const auto within = [&](const Json& value) {
    const double number = value.get<double>();
    return number >= range.low && number <= range.high;
  };
  const bool all =
      setting.value.is_array() ? std::ranges::all_of(setting.value, within) : within(setting.value);
  if (!all)
    bad_input("{}: {} = {}: allowed is {}", setting.where, key, setting.value.dump(), describe(range));
}

void check_name(const std::string& key, const Setting& setting, const OneOf& names) {
  const auto known = [&](const Json& value) {
    if (std::ranges::find(names.names, value.get<std::string>()) == names.names.end())
      bad_input("{}: {}", setting.where, unknown_name(key, value.get<std::string>(), names.names));
  };
  if (setting.value.is_array())
    std::ranges::for_each(setting.value, known);
  else
    known(setting.value);
}

void Reader::reject_unknown(std::string_view owner) const {
  for (const auto& [key, setting] : settings_)
    if (std::ranges::find(known_, key) == known_.end())
      bad_input("{}: {}", setting.where, unknown_name(fmt::format("key of {}", owner), key, known_));
}

std::string describe(Range range) { return fmt::format("{:g} to {:g}", range.low, range.high); }

std::string describe(const OneOf& names) {
  std::string text;
  for (const std::string& name : names.names) text += fmt::format("{}'{}'", text.empty() ? "" : " or ", name);
  return text;
}

}  // namespace option_detail

}  // namespace grinqh
