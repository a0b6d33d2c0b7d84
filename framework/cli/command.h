// Commands of the program register themselves, one file each.
#pragma once

#include <boost/program_options.hpp>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/device.h"

namespace grinqh {

// Arguments of one command, described by Boost.Program_options. Every mistake is BadInput with the command's
// usage line.
class Arguments {
 public:
  explicit Arguments(std::string usage) : usage_(std::move(usage)) {}

  // Options go here: arguments.options()("text", po::value<std::string>(), "...").
  boost::program_options::options_description_easy_init options() { return described_.add_options(); }
  // Words without a dash, `name` for all of them; at least `least` are needed, at most `most` allowed.
  void positional(const std::string& name, size_t least, size_t most);

  // False if --help was asked for: usage and options have been printed.
  bool parse(const std::vector<std::string>& words);

  bool has(const std::string& name) const { return values_.count(name) > 0; }
  template <class T>
  T get(const std::string& name) const {
    if (!has(name)) missing(name);
    return values_[name].as<T>();
  }
  std::vector<std::string> words(const std::string& name) const {
    return has(name) ? values_[name].as<std::vector<std::string>>() : std::vector<std::string>();
  }
  [[noreturn]] void refuse(const std::string& why) const;

 private:
  [[noreturn]] void missing(const std::string& name) const;

  std::string usage_;
  boost::program_options::options_description described_;
  std::string positional_ = "ARGUMENT";
  size_t least_ = 0, most_ = 0;
  boost::program_options::variables_map values_;
};

// Sets the number of threads from --threads; refuses what is no number of them.
void apply_threads(const Arguments& arguments);

// The options --device and --arithmetic, and what they choose; "auto" where they are not given.
void add_device_options(Arguments& arguments);
DeviceChoice chosen_device(const Arguments& arguments);

struct Command {
  std::string summary;
  std::function<int(const std::vector<std::string>& words)> run;  // returns the exit code
};

struct RegisterCommand {
  RegisterCommand(std::string_view name, std::string_view summary,
                  std::function<int(const std::vector<std::string>&)> run);
};

const std::map<std::string, Command, std::less<>>& commands();

}  // namespace grinqh
