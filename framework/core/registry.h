// Plugins register themselves by a namespace-scope object, built-in and foreign ones by the same door:
//
//   const Register<Quantizer, Rtn> plugin{"rtn", "round to nearest, group-wise affine"};
//
// `Base` says its role in messages by a static member `kind` ("quantizer"). The objects must be linked as
// OBJECT libraries or loaded from a shared library: a static library would drop them unreferenced.
#pragma once

#include <concepts>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/options.h"
#include "core/text.h"

namespace grinqh {

template <class T>
concept Configurable = requires {
  typename T::Options;
};

template <class Base>
class Registry {
 public:
  struct Entry {
    std::string summary;
    std::vector<OptionInfo> options;
    std::function<std::unique_ptr<Base>(const Settings&)> make;
    std::function<Json(const Settings&)> resolve;  // the settings with every default written out
  };

  // Function-local, so that registration from any translation unit finds it constructed.
  static Registry& get() {
    static Registry registry;
    return registry;
  }

  void add(std::string name, Entry entry) {
    if (!entries_.emplace(name, std::move(entry)).second) conflicts_.push_back(std::move(name));
  }

  // `where` is the place that named it, for the message: "file.toml:7".
  const Entry& at(std::string_view name, std::string_view where = {}) const {
    if (const auto it = entries_.find(name); it != entries_.end()) return it->second;
    bad_input("{}{}{}", where, where.empty() ? "" : ": ", unknown_name(Base::kind, name, names()));
  }
  bool contains(std::string_view name) const { return entries_.find(name) != entries_.end(); }

  std::unique_ptr<Base> make(std::string_view name, const Settings& settings = {}) const {
    return at(name).make(settings);
  }

  std::vector<std::string> names() const {
    std::vector<std::string> result;
    for (const auto& [name, entry] : entries_) result.push_back(name);
    return result;
  }

  // Names that were registered twice: an exception in a static initializer could not say which, so main()
  // reports them.
  const std::vector<std::string>& conflicts() const { return conflicts_; }

 private:
  std::map<std::string, Entry, std::less<>> entries_;
  std::vector<std::string> conflicts_;
};

template <class Base, Configurable T>
requires std::derived_from<T, Base>
struct Register {
  Register(std::string_view name, std::string_view summary) {
    using Options = typename T::Options;
    const std::string owner = std::string(Base::kind) + " '" + std::string(name) + "'";
    Registry<Base>::get().add(
        std::string(name),
        {std::string(summary), describe_options<Options>(),
         [owner](const Settings& s) { return std::make_unique<T>(read_options<Options>(s, owner)); },
         [owner](const Settings& s) { return print_options(read_options<Options>(s, owner)); }});
  }
};

}  // namespace grinqh
