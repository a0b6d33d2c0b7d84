// What can be listed and described: every kind of plugin in one view.
#pragma once

#include <string>
#include <vector>

#include "core/options.h"

namespace grinqh {

struct Listed {
  std::string kind;  // plural, as `grinqh list` takes it: "quantizers"
  std::string name;
  std::string summary;
  std::vector<OptionInfo> options;
};

// Everything registered, by kind and name.
std::vector<Listed> list_registered();
const std::vector<std::string>& listed_kinds();

// BadInput if two plugins of one kind have the same name.
void report_registration_conflicts();

}  // namespace grinqh
