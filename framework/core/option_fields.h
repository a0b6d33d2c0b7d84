// What options are made of: values with their place, types, limits, and the visitors that read, print and
// describe a struct's fields. Plugins use it through core/options.h.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/json.h"

namespace grinqh {

struct Range {
  double low, high;  // both ends allowed
};
struct OneOf {
  std::vector<std::string> names;
};

// One key as the user gave it: its value and where it stands ("file.toml:12").
struct Setting {
  Json value;
  std::string where;
};
using Settings = std::map<std::string, Setting, std::less<>>;

enum class OptionType { boolean, integer, real, text, integer_list, real_list, text_list };
std::string_view to_string(OptionType type);
bool is_list(OptionType type);

struct OptionInfo {
  std::string name;
  OptionType type;
  Json default_value;
  std::string allowed;  // "2 to 8", "'magnitude' or 'error'", "" if anything of the type goes
  std::string help;
};

namespace option_detail {

// Converts `setting` to the field's type or throws BadInput naming place, key, what was found and allowed.
void assign(const std::string& key, const Setting& setting, bool& field);
void assign(const std::string& key, const Setting& setting, int& field);
void assign(const std::string& key, const Setting& setting, int64_t& field);
void assign(const std::string& key, const Setting& setting, double& field);
void assign(const std::string& key, const Setting& setting, std::string& field);
void assign(const std::string& key, const Setting& setting, std::vector<int>& field);
void assign(const std::string& key, const Setting& setting, std::vector<double>& field);
void assign(const std::string& key, const Setting& setting, std::vector<std::string>& field);

void check_range(const std::string& key, const Setting& setting, Range range);
void check_name(const std::string& key, const Setting& setting, const OneOf& names);

template <class T>
constexpr OptionType type_of() {
  if constexpr (std::is_same_v<T, bool>)
    return OptionType::boolean;
  else if constexpr (std::is_integral_v<T>)
    return OptionType::integer;
  else if constexpr (std::is_floating_point_v<T>)
    return OptionType::real;
  else if constexpr (std::is_same_v<T, std::string>)
    return OptionType::text;
  else if constexpr (std::is_same_v<T, std::vector<int>>)
    return OptionType::integer_list;
  else if constexpr (std::is_same_v<T, std::vector<double>>)
    return OptionType::real_list;
  else
    return OptionType::text_list;
}

class Reader {
 public:
  explicit Reader(const Settings& settings) : settings_(settings) {}
  template <class T>
  void operator()(const std::string& key, T& field, std::string_view) {
    known_.push_back(key);
    if (const auto it = settings_.find(key); it != settings_.end()) assign(key, it->second, field);
  }
  template <class T>
  void operator()(const std::string& key, T& field, Range range, std::string_view help) {
    (*this)(key, field, help);
    if (const auto it = settings_.find(key); it != settings_.end()) check_range(key, it->second, range);
  }
  template <class T>
  void operator()(const std::string& key, T& field, const OneOf& names, std::string_view help) {
    (*this)(key, field, help);
    if (const auto it = settings_.find(key); it != settings_.end()) check_name(key, it->second, names);
  }
  // BadInput for the first setting that no field claimed.
  void reject_unknown(std::string_view owner) const;

 private:
  const Settings& settings_;
  std::vector<std::string> known_;
};

class Printer {
 public:
  template <class T, class... Rest>
  void operator()(const std::string& key, T& field, Rest&&...) {
    json[key] = field;
  }
  Json json = Json::object();
};

std::string describe(Range range);
std::string describe(const OneOf& names);

class Describer {
 public:
  template <class T>
  void operator()(const std::string& key, T& field, std::string_view help) {
    add(key, field, "", help);
  }
  template <class T, class Allowed>
  void operator()(const std::string& key, T& field, const Allowed& allowed, std::string_view help) {
    add(key, field, describe(allowed), help);
  }
  std::vector<OptionInfo> options;

 private:
  template <class T>
  void add(const std::string& key, const T& field, std::string allowed, std::string_view help) {
    options.push_back({key, type_of<T>(), Json(field), std::move(allowed), std::string(help)});
  }
};

}  // namespace option_detail

}  // namespace grinqh
