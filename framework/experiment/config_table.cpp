#include "experiment/config_table.h"

#include <toml++/toml.h>

#include <algorithm>
#include <charconv>
#include <sstream>

#include "core/text.h"

namespace grinqh {

namespace {

// VALUE of an override: TOML if it is, else the text itself.
void insert_value(toml::table& table, const std::string& key, const std::string& text) {
  try {
    const toml::table parsed = toml::parse("value = " + text);
    table.insert_or_assign(key, *parsed.get("value"));
  } catch (const toml::parse_error&) {
    table.insert_or_assign(key, text);
  }
}

void apply_override(toml::table& root, const std::string& assignment) {
  const size_t equals = assignment.find('=');
  if (equals == std::string::npos || equals == 0) bad_input("--set {}: expected KEY=VALUE", assignment);
  std::vector<std::string> path{""};
  const size_t key_end = assignment.find_last_not_of(' ', equals - 1) + 1;
  for (const char c : assignment.substr(0, key_end)) {
    if (c == '.')
      path.emplace_back();
    else
      path.back() += c;
  }
  toml::table* table = &root;
  for (size_t i = 0; i + 1 < path.size(); ++i) {
    toml::node* node = table->get(path[i]);
    if (!node) node = &table->insert(path[i], toml::table{}).first->second;
    if (toml::array* list = node->as_array()) {
      const std::string& digits = path[++i];
      size_t index = 0;
      const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), index);
      if (error != std::errc() || end != digits.data() + digits.size() || index >= list->size() ||
          i + 1 >= path.size())
        bad_input("--set {}: '{}' is a list of {}, expected '{}.' with a number below that, '.' and a key",
                  assignment, path[i - 1], list->size(), path[i - 1]);
      node = list->get(index);
    }
    table = node->as_table();
    if (!table) bad_input("--set {}: '{}' is not a table", assignment, path[i]);
  }
  insert_value(*table, path.back(), assignment.substr(equals + 1));
}

}  // namespace

class TomlReader {
 public:
  explicit TomlReader(std::string source) : source_(std::move(source)) {}

  ConfigTable table(const toml::table& from) const {
    ConfigTable to;
    to.where_ = place(from);
    std::vector<std::pair<const toml::key*, const toml::node*>> entries;
    for (auto&& [key, node] : from) entries.emplace_back(&key, &node);
    // toml++ sorts by name; the order of the file says in which order axes are swept. An overridden value
    // takes the place of its key.
    std::ranges::stable_sort(entries, {}, [](const auto& entry) {
      const toml::source_position at = entry.first->source().begin;
      return std::pair(at ? at.line : UINT32_MAX, at.column);
    });
    for (const auto& [key, node] : entries) {
      const std::string name(key->str());
      to.keys_.push_back(name);
      to.settings_.emplace(name, Setting{json(*node), place(*node)});
      if (const toml::table* child = node->as_table()) to.tables_[name].push_back(table(*child));
      if (const toml::array* list = node->as_array())
        for (const toml::node& element : *list)
          if (const toml::table* child = element.as_table()) to.tables_[name].push_back(table(*child));
    }
    return to;
  }

 private:
  std::string place(const toml::node& node) const {
    const auto line = node.source().begin.line;
    return line ? fmt::format("{}:{}", source_, line) : source_ + " (--set)";
  }

  Json json(const toml::node& node) const {
    if (const auto* value = node.as_boolean()) return value->get();
    if (const auto* value = node.as_integer()) return value->get();
    if (const auto* value = node.as_floating_point()) return value->get();
    if (const auto* value = node.as_string()) return value->get();
    if (const toml::array* list = node.as_array()) {
      Json values = Json::array();
      for (const toml::node& element : *list) values.push_back(json(element));
      return values;
    }
    if (const toml::table* table = node.as_table()) {
      Json object = Json::object();
      for (auto&& [key, value] : *table) object[std::string(key.str())] = json(value);
      return object;
    }
    bad_input("{}: dates and times have no use here", place(node));
  }

  std::string source_;
};

ConfigTable ConfigTable::read(const std::filesystem::path& file, const std::vector<std::string>& overrides) {
  return parse(read_file(file.string(), "experiment"), file.string(), overrides);
}

ConfigTable ConfigTable::parse(const std::string& toml, const std::string& source,
                               const std::vector<std::string>& overrides) {
  try {
    toml::table root = toml::parse(toml, source);
    for (const std::string& assignment : overrides) apply_override(root, assignment);
    return TomlReader(source).table(root);
  } catch (const toml::parse_error& error) {
    bad_input("{}:{}: not valid TOML: {}", source, error.source().begin.line, error.description());
  }
}

const Setting& ConfigTable::at(std::string_view key) const {
  const auto it = settings_.find(key);
  if (it == settings_.end()) bad_input("{}: key '{}' is missing", where_, key);
  return it->second;
}

void reject_unknown(const ConfigTable& table, const std::string& owner,
                    const std::vector<std::string>& known) {
  for (const std::string& key : table.keys())
    if (std::ranges::find(known, key) == known.end())
      bad_input("{}: {}", table.at(key).where, unknown_name("key of " + owner, key, known));
}

ConfigTable ConfigTable::table(std::string_view key) const {
  if (!has(key)) {
    ConfigTable empty;
    empty.where_ = where_;
    return empty;
  }
  if (!at(key).value.is_object()) bad_input("{}: '{}': expected a table [{}]", at(key).where, key, key);
  return tables_.find(key)->second.front();
}

std::vector<ConfigTable> ConfigTable::tables(std::string_view key) const {
  if (!has(key)) return {};
  const auto it = tables_.find(key);
  const Json& value = at(key).value;
  if (!value.is_array() || it == tables_.end() || it->second.size() != value.size())
    bad_input("{}: '{}': expected a list of tables [[{}]]", at(key).where, key, key);
  return it->second;
}

namespace {

void insert_json(toml::table& to, const std::string& key, const Json& value);

toml::table to_toml_table(const Json& object) {
  toml::table table;
  for (const auto& [key, value] : object.items()) insert_json(table, key, value);
  return table;
}

void append_json(toml::array& to, const Json& value) {
  if (value.is_object()) return to.push_back(to_toml_table(value));
  toml::table one;
  insert_json(one, "value", value);
  if (const toml::node* node = one.get("value")) to.push_back(*node);
}

void insert_json(toml::table& to, const std::string& key, const Json& value) {
  if (value.is_boolean())
    to.insert(key, value.get<bool>());
  else if (value.is_number_integer())
    to.insert(key, value.get<int64_t>());
  else if (value.is_number())
    to.insert(key, value.get<double>());
  else if (value.is_string())
    to.insert(key, value.get<std::string>());
  else if (value.is_object())
    to.insert(key, to_toml_table(value));
  else if (value.is_array()) {
    toml::array list;
    for (const Json& element : value) append_json(list, element);
    to.insert(key, list);
  }
}

}  // namespace

std::string to_toml(const Json& object) {
  std::ostringstream text;
  text << to_toml_table(object) << "\n";
  return text.str();
}

}  // namespace grinqh
