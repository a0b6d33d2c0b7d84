// Where the time of a run goes: with GRINQH_TIMES=1 in the environment, seconds by name on stderr at its
// end.
#pragma once

#include <chrono>

namespace grinqh {

// The time until the end of its scope counts for the name, that of scopes within it for both. The name: a
// string literal.
class TimedScope {
 public:
  explicit TimedScope(const char* name) : name_(name) {}
  ~TimedScope();
  TimedScope(const TimedScope&) = delete;
  TimedScope& operator=(const TimedScope&) = delete;

 private:
  using Clock = std::chrono::steady_clock;
  const char* name_;
  Clock::time_point start_ = Clock::now();
};

}  // namespace grinqh
