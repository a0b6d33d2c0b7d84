// grinqh list KIND: names and what they are.   grinqh describe NAME: options with ranges and defaults.
#include <algorithm>

#include <fmt/format.h>

#include "cli/command.h"
#include "cli/registries.h"
#include "core/text.h"

namespace grinqh {
namespace {

int list(const std::vector<std::string>& words) {
  Arguments arguments("list " + join(listed_kinds(), "|"));
  arguments.positional("KIND", 1, 1);
  if (!arguments.parse(words)) return 0;
  const std::string kind = arguments.words("KIND")[0];
  if (std::ranges::find(listed_kinds(), kind) == listed_kinds().end())
    bad_input("{}", unknown_name("kind", kind, listed_kinds()));
  for (const Listed& each : list_registered())
    if (each.kind == kind) fmt::print("{:24} {}\n", each.name, each.summary);
  return 0;
}

int describe(const std::vector<std::string>& words) {
  Arguments arguments("describe NAME");
  arguments.positional("NAME", 1, 1);
  if (!arguments.parse(words)) return 0;
  const std::string name = arguments.words("NAME")[0];
  std::vector<std::string> names;
  bool found = false;
  for (const Listed& each : list_registered()) {
    names.push_back(each.name);
    if (each.name != name) continue;
    fmt::print("{}{} ({}): {}\n", found ? "\n" : "", each.name, each.kind, each.summary);
    for (const OptionInfo& option : each.options)
      fmt::print("  {:12} {}{}; default {}\n  {:12} {}\n", option.name, to_string(option.type),
                 option.allowed.empty() ? "" : ", " + option.allowed, option.default_value.dump(), "",
                 option.help);
    found = true;
  }
  if (!found) bad_input("{}", unknown_name("name", name, names));
  return 0;
}

const RegisterCommand list_command{"list", "names of models, quantizers, policies, ...", list};
const RegisterCommand describe_command{"describe", "a plugin's options with ranges and defaults", describe};

}  // namespace
}  // namespace grinqh
