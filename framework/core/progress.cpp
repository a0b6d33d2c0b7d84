#include "core/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

namespace grinqh {

namespace {

bool progress_enabled = true;

std::string duration(double seconds) {
  const auto s = static_cast<int64_t>(seconds + 0.5);
  return s < 3600 ? fmt::format("{}:{:02}", s / 60, s % 60)
                  : fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
}

}  // namespace

void Progress::note(const std::string& line) {
  if (progress_enabled) fmt::print(stderr, "{}\n", line);
}

void Progress::set_enabled(bool enabled) { progress_enabled = enabled; }

Progress::Progress(std::string label, int64_t total, std::string unit)
    : label_(std::move(label)),
      unit_(std::move(unit)),
      total_(total),
      start_(Clock::now()),
      printed_(start_),
      terminal_(isatty(STDERR_FILENO)) {}

Progress::~Progress() { print(true); }

void Progress::advance(int64_t count) {
  done_ += count;
  const auto pause = terminal_ ? std::chrono::milliseconds(100) : std::chrono::milliseconds(5000);
  if (Clock::now() - printed_ >= pause) print(false);
}

void Progress::print(bool last) {
  if (!progress_enabled) return;
  const auto now = Clock::now();
  const double seconds = std::chrono::duration<double>(now - start_).count();
  // A stage that ended before its first line has nothing to tell.
  if (last && printed_ == start_ && (!terminal_ || seconds < 0.2)) return;
  printed_ = now;
  const double rate = seconds > 0 ? static_cast<double>(done_) / seconds : 0.0;
  const double share = total_ > 0 ? static_cast<double>(done_) / static_cast<double>(total_) : 0.0;
  std::string line = label_ + " ";
  if (terminal_ && total_ > 0) {
    constexpr int kWidth = 24;
    const int filled = static_cast<int>(share * kWidth);
    line += fmt::format("[{}{}] ", std::string(filled, '='), std::string(kWidth - filled, ' '));
  }
  if (total_ > 0) line += fmt::format("{:3.0f}% ", share * 100);
  line += fmt::format("{}/{} {} {:.0f}/s", done_, total_, unit_, rate);
  if (last || total_ == 0 || rate == 0)
    line += fmt::format(", {}", duration(seconds));
  else
    line += fmt::format(", {} left", duration(static_cast<double>(total_ - done_) / rate));
  if (terminal_)
    fmt::print(stderr, "\r\x1b[2K{}{}", line, last ? "\n" : "");
  else
    fmt::print(stderr, "{}\n", line);
  std::fflush(stderr);
}

}  // namespace grinqh
