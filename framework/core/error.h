// How the framework reports what went wrong. `BadInput` is the user's to mend (exit code 2), every other
// `Error` is a run that failed (exit code 1); main() prints one line for either.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>

namespace grinqh {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The message names the file, the key or tensor, what was found and what is allowed.
class BadInput : public Error {
 public:
  using Error::Error;
};

template <class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fmt::format(format, std::forward<Args>(args)...));
}

template <class... Args>
[[noreturn]] void bad_input(fmt::format_string<Args...> format, Args&&... args) {
  throw BadInput(fmt::format(format, std::forward<Args>(args)...));
}

// For invariants of our own code, always on: a violation is a defect, never the user's mistake.
inline void check(bool holds, const char* invariant) {
  if (!holds) throw std::logic_error(std::string("internal error: ") + invariant);
}

}  // namespace grinqh
