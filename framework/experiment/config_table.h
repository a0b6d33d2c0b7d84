// A TOML table that knows where every key stands, for messages.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/options.h"

namespace grinqh {

class ConfigTable {
 public:
  // BadInput with file and line if it is no TOML. `overrides` are "KEY=VALUE" with dotted keys and numbers
  // for the elements of a list ("methods.0.bits=[4]"); VALUE is TOML, or else a plain string.
  static ConfigTable read(const std::filesystem::path& file, const std::vector<std::string>& overrides = {});
  static ConfigTable parse(const std::string& toml, const std::string& source,
                           const std::vector<std::string>& overrides = {});

  const std::string& where() const { return where_; }             // "file.toml:12"
  const std::vector<std::string>& keys() const { return keys_; }  // in the order of the file
  bool has(std::string_view key) const { return settings_.find(key) != settings_.end(); }
  // The value as it stands, tables as objects. BadInput naming this table if the key is missing.
  const Setting& at(std::string_view key) const;

  // A table of its own, an empty one if it is missing; a list of tables. BadInput if it is something else.
  ConfigTable table(std::string_view key) const;
  std::vector<ConfigTable> tables(std::string_view key) const;

  const Settings& settings() const { return settings_; }

 private:
  friend class TomlReader;
  std::string where_;
  std::vector<std::string> keys_;
  Settings settings_;
  std::map<std::string, std::vector<ConfigTable>, std::less<>> tables_;
};

// BadInput for the first key of the table that is not among the known ones; `owner` names the table.
void reject_unknown(const ConfigTable& table, const std::string& owner,
                    const std::vector<std::string>& known);

// A configuration as TOML text; parse() of it gives the same values.
std::string to_toml(const Json& object);

}  // namespace grinqh
