// The rules of rules.h, held against the tree itself.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>

#include "architecture/rules.h"
#include "core/text.h"
#include "support.h"

namespace grinqh::architecture {
namespace {

namespace fs = std::filesystem;

// Every file under the folders of sources, sorted by path.
const std::vector<std::string>& paths() {
  static const std::vector<std::string> result = [] {
    std::vector<std::string> found;
    for (const char* top : {"framework", "kernels", "quantizers", "baselines", "tests"}) {
      const fs::path folder = testing::source_dir() / top;
      if (!fs::exists(folder)) continue;
      for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder))
        if (entry.is_regular_file())
          found.push_back(entry.path().lexically_relative(testing::source_dir()).generic_string());
    }
    std::sort(found.begin(), found.end());
    return found;
  }();
  return result;
}

std::string read(const std::string& path) {
  return read_file((testing::source_dir() / path).string(), "source");
}

std::vector<SourceFile> sources() {
  std::vector<SourceFile> result;
  for (const std::string& path : paths())
    if (is_header(path) || path.ends_with(".cpp") || path.ends_with(".cu"))
      result.push_back({path, read(path)});
  return result;
}

// The files of each plugin, by its folder.
std::map<std::string, std::vector<std::string>> plugins() {
  std::map<std::string, std::vector<std::string>> result;
  for (const std::string& path : paths())
    if (path.starts_with("quantizers/") || path.starts_with("baselines/"))
      result[folder_of(path)].push_back(path);
  return result;
}

void expect_none(const Violations& violations) {
  for (const std::string& violation : violations) ADD_FAILURE() << violation;
}

TEST(Tree, IsSeen) {
  EXPECT_THAT(paths(), ::testing::IsSupersetOf({"framework/core/error.h", "framework/cli/main.cpp",
                                                "tests/architecture/tree_test.cpp"}));
}

TEST(Tree, IncludesFollowTheLayers) {
  const Layers layers = Layers::parse(read("tests/architecture/layers.txt"));
  for (const SourceFile& file : sources()) expect_none(layers.check_includes(file));
}

TEST(Tree, HeadersAreGuardedAndCommented) {
  for (const SourceFile& file : sources())
    if (is_header(file.path)) expect_none(check_header_form(file));
}

TEST(Tree, FilesAreShort) {
  for (const SourceFile& file : sources()) expect_none(check_length(file));
}

TEST(Tree, OnlyPluginsKnowMethodsByName) {
  std::vector<std::string> methods = {"rtn", "gptq", "awq", "hqq", "pmpd"};
  for (const auto& [folder, files] : plugins()) methods.push_back(folder.substr(folder.find('/') + 1));
  std::erase(methods, "grinqh");  // the program has this name too
  // Names that mean something else there: a protocol of perplexity, and the policy of a method that names
  // none.
  const std::map<std::string, std::string> other_meaning = {{"framework/eval/windows.cpp", "gptq"},
                                                            {"framework/experiment/sweep.cpp", "uniform"}};
  for (const SourceFile& file : sources()) {
    std::vector<std::string> forbidden = methods;
    if (const auto it = other_meaning.find(file.path); it != other_meaning.end())
      std::erase(forbidden, it->second);
    expect_none(check_method_names(file, forbidden));
  }
}

TEST(Tree, PluginFoldersAreComplete) {
  for (const auto& [folder, files] : plugins()) expect_none(check_plugin_folder(folder, files));
}

}  // namespace
}  // namespace grinqh::architecture
