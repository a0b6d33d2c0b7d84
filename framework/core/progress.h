// Progress on stderr: a bar with rate and time left on a terminal, one plain line every few seconds
// elsewhere.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace grinqh {

class Progress {
 public:
  // `unit` names what is counted ("tokens"); total 0 means unknown.
  Progress(std::string label, int64_t total, std::string unit);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void advance(int64_t count);
  // A line about something that is done, where progress is shown.
  static void note(const std::string& line);
  static void set_enabled(bool enabled);  // off: nothing is printed (--quiet, tests)

 private:
  using Clock = std::chrono::steady_clock;
  void print(bool last);
  std::string label_, unit_;
  int64_t total_, done_ = 0;
  Clock::time_point start_, printed_;
  bool terminal_;
};

}  // namespace grinqh
