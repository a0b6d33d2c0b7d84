// The program as a user runs it: a process with its arguments, its folder and its environment.
#pragma once

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "core/json.h"
#include "core/text.h"
#include "support.h"

namespace grinqh::testing {

struct Finished {
  int status = -1;  // exit code; -1 if a signal ended it
  std::string out, err;
};

using Words = std::vector<std::string>;
using Environment = std::map<std::string, std::string>;

class Program {
 public:
  explicit Program(const Words& words, const std::filesystem::path& folder = source_dir(),
                   const Environment& environment = {}) {
    const char* program = std::getenv("GRINQH_PROGRAM");
    if (!program) throw std::runtime_error("GRINQH_PROGRAM is not set: run the tests through ctest");
    Words all{program};
    all.insert(all.end(), words.begin(), words.end());
    std::vector<char*> arguments;
    for (std::string& word : all) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    pid_ = fork();
    if (pid_ != 0) return;
    for (const auto& [name, value] : environment) setenv(name.c_str(), value.c_str(), 1);
    redirect((output_ / "out").string(), STDOUT_FILENO);
    redirect((output_ / "err").string(), STDERR_FILENO);
    redirect("/dev/null", STDIN_FILENO);
    if (chdir(folder.c_str()) == 0) execv(program, arguments.data());
    _exit(127);
  }
  ~Program() {
    if (pid_ > 0) kill();
  }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  void kill() {
    ::kill(pid_, SIGKILL);
    wait();
  }
  bool running() {
    int status = 0;
    if (pid_ > 0 && waitpid(pid_, &status, WNOHANG) == pid_) note(status);
    return pid_ > 0;
  }
  Finished wait() {
    int status = 0;
    if (pid_ > 0 && waitpid(pid_, &status, 0) == pid_) note(status);
    return {status_, read_file((output_ / "out").string(), "output"),
            read_file((output_ / "err").string(), "output")};
  }

 private:
  static void redirect(const std::string& path, int descriptor) {
    const int file = open(path.c_str(), O_RDWR | O_CREAT, 0666);
    if (file >= 0) dup2(file, descriptor);
  }
  void note(int status) {
    status_ = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    pid_ = -1;
  }
  TempDir output_;
  pid_t pid_ = -1;
  int status_ = -1;
};

inline Finished run(const Words& words, const std::filesystem::path& folder = source_dir(),
                    const Environment& environment = {}) {
  return Program(words, folder, environment).wait();
}

// Refused as bad input: exit code 2, one line on stderr that holds every part, nothing on stdout.
inline void expect_refused(const Words& words, const std::vector<std::string>& parts,
                           const Environment& environment = {}) {
  const Finished finished = run(words, source_dir(), environment);
  SCOPED_TRACE("grinqh " + join(words, " "));
  EXPECT_EQ(finished.status, 2) << finished.err;
  EXPECT_EQ(finished.out, "");
  EXPECT_THAT(finished.err, ::testing::StartsWith("grinqh: "));
  EXPECT_EQ(std::ranges::count(finished.err, '\n'), 1) << finished.err;
  for (const std::string& part : parts) EXPECT_THAT(finished.err, ::testing::HasSubstr(part));
}

inline std::string embedded(const std::string& model) {
  return (source_dir() / "experiments" / "models" / model).string();
}

// The first `bytes` of the repository's held-out text.
inline std::filesystem::path write_held_out(const std::filesystem::path& path, size_t bytes) {
  const std::string text = read_file((source_dir() / "experiments/data/held_out.txt").string(), "text");
  std::ofstream(path, std::ios::binary) << text.substr(0, bytes);
  return path;
}

// Rows of `grinqh report --format json`.
inline Json report_rows(const std::filesystem::path& folder, const Words& more = {}) {
  Words words{"report", folder.string(), "--format", "json"};
  words.insert(words.end(), more.begin(), more.end());
  const Finished finished = run(words);
  EXPECT_EQ(finished.status, 0) << finished.err;
  return Json::parse(finished.out, nullptr, false);
}

// A row without what differs from run to run.
inline Json figures_of(Json row) {
  for (const char* key : {"quantize_seconds", "evaluate_seconds"}) row.erase(key);
  return row;
}

}  // namespace grinqh::testing
