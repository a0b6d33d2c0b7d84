#include "core/timed_scope.h"

#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>

namespace grinqh {

namespace {

bool asked() {
  static const bool value = [] {
    const char* text = std::getenv("GRINQH_TIMES");
    return text && *text == '1';
  }();
  return value;
}

struct Spent {
  double seconds = 0;
  int64_t times = 0;
};

class All {
 public:
  ~All() {
    for (const auto& [name, spent] : spent_)
      fmt::print(stderr, "time: {:32} {:9.3f} s in {}\n", name, spent.seconds, spent.times);
  }
  void add(const char* name, double seconds) {
    const std::lock_guard lock(mutex_);
    Spent& spent = spent_[name];
    spent.seconds += seconds;
    ++spent.times;
  }

 private:
  std::mutex mutex_;
  std::map<std::string, Spent> spent_;
};

}  // namespace

TimedScope::~TimedScope() {
  if (!asked()) return;
  static All all;
  all.add(name_, std::chrono::duration<double>(Clock::now() - start_).count());
}

}  // namespace grinqh
