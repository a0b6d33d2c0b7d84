// Typed options of plugins. A plugin declares a struct `Options` with defaults and one member template
//
//   template <class V> void fields(V& v) {
//     v("bits", bits, Range{2, 8}, "width of a code");
//     v("symmetric", symmetric, "no zero point");
//     v("score", score, OneOf{{"magnitude", "error"}}, "what a channel is graded by");
//   }
//
// and optionally `void validate() const` for rules across fields (it throws BadInput). The same declaration
// reads settings strictly, prints them back with the defaults filled in, and describes them to the user.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/option_fields.h"

namespace grinqh {

// `owner` names the plugin in messages: "quantizer 'rtn'".
template <class Options>
Options read_options(const Settings& settings, std::string_view owner) {
  Options options;
  option_detail::Reader reader(settings);
  options.fields(reader);
  reader.reject_unknown(owner);
  if constexpr (requires { options.validate(); }) {
    try {
      options.validate();
    } catch (const BadInput& error) {
      const std::string where = settings.empty() ? "" : settings.begin()->second.where + ": ";
      bad_input("{}{}: {}", where, owner, error.what());
    }
  }
  return options;
}

template <class Options>
Json print_options(Options options) {
  option_detail::Printer printer;
  options.fields(printer);
  return printer.json;
}

template <class Options>
std::vector<OptionInfo> describe_options() {
  Options options;
  option_detail::Describer describer;
  options.fields(describer);
  return describer.options;
}

}  // namespace grinqh
