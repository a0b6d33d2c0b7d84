// What tests share: paths, and skipping where the shared data is absent.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <random>
#include <string>

namespace grinqh::testing {

inline std::filesystem::path source_dir() { return GRINQH_SOURCE_DIR; }
inline std::filesystem::path shared_dir() { return source_dir() / ".." / "shared"; }

// A fresh folder, removed with everything in it at the end of the scope.
class TempDir {
 public:
  TempDir() {
    std::string pattern = (std::filesystem::temp_directory_path() / "grinqh-test-XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  ~TempDir() { std::filesystem::remove_all(path_); }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace grinqh::testing

// Data that is not part of the repository: the test that needs it says so and passes over.
#define GRINQH_NEED_SHARED(relative)                                        \
  if (!std::filesystem::exists(grinqh::testing::shared_dir() / (relative))) \
  GTEST_SKIP() << "needs ../shared/" << (relative) << ", which is not here"
