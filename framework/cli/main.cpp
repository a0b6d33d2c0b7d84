// grinqh COMMAND ...: finds the command and turns what it throws into one line and an exit code.
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/registries.h"
#include "core/error.h"
#include "core/plugin_library.h"
#include "core/text.h"
#include "revision.h"

namespace {

using namespace grinqh;

constexpr int kFailed = 1;    // a run failed
constexpr int kBadInput = 2;  // the user's to mend

void print_help() {
  fmt::print(
      "grinqh {}: experiments with weight quantization of language models\n\nusage: grinqh COMMAND ...\n\n",
      GRINQH_VERSION);
  for (const auto& [name, command] : commands()) fmt::print("  {:14} {}\n", name, command.summary);
  fmt::print("  {:14} {}\n\n", "test", "build everything and run the tests (./grinqh test [CTEST ARGS])");
  fmt::print("grinqh COMMAND --help tells a command's options.\n");
}

int run(const std::vector<std::string>& words) {
  if (words.empty() || words[0] == "--help" || words[0] == "-h" || words[0] == "help") return print_help(), 0;
  if (words[0] == "--version") return fmt::print("grinqh {} {}\n", GRINQH_VERSION, GRINQH_COMMIT), 0;
  if (const char* plugins = std::getenv("GRINQH_PLUGINS")) load_plugin_libraries(plugins);
  report_registration_conflicts();
  // A name may have two words: "bench forward".
  size_t length = 1;
  auto command = commands().find(words[0]);
  if (command == commands().end() && words.size() > 1)
    length = 2, command = commands().find(words[0] + " " + words[1]);
  if (command == commands().end()) {
    std::vector<std::string> names;
    for (const auto& [name, each] : commands()) names.push_back(name);
    bad_input("{}", unknown_name("command", words[0], names));
  }
  return command->second.run({words.begin() + static_cast<std::ptrdiff_t>(length), words.end()});
}

// One line, whatever the message carries from foreign files.
int complain(std::string message, int code) {
  std::ranges::replace(message, '\n', ' ');
  fmt::print(stderr, "grinqh: {}\n", message);
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const int code = run({argv + 1, argv + argc});
    if (std::fflush(stdout) != 0) return complain("writing to standard output failed", kFailed);
    return code;
  } catch (const BadInput& error) {
    return complain(error.what(), kBadInput);
  } catch (const std::bad_alloc&) {
    return complain("out of memory", kFailed);
  } catch (const std::exception& error) {
    return complain(error.what(), kFailed);
  }
}
