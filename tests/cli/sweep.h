// A small sweep over the embedded Llama: what the tests of `grinqh run` run.
#pragma once

#include "cli/program.h"

namespace grinqh::testing {

class Sweep : public ::testing::Test {
 protected:
  Sweep() {
    write_held_out(folder_ / "held.txt", kBytes);
    write_held_out(folder_ / "calibration.txt", kBytes / 2);
    write("sweep.toml", toml());
  }

  static constexpr size_t kBytes = 2200;  // some 600 tokens: four windows of 128

  std::string toml(const std::string& methods = default_methods()) const {
    return "title = \"A small sweep\"\n[[models]]\npath = \"" + embedded("llama-tiny") +
           "\"\n[calibration]\ntext = \"calibration.txt\"\nwindows = 4\ncontext = 64\n" + methods +
           "[[evaluations]]\nkind = \"perplexity\"\ntext = \"held.txt\"\ncontext = 128\nreference = "
           "\"float\"\n";
  }
  static std::string default_methods() {
    return "[[methods]]\nquantizer = \"rtn\"\nbits = [4, 2]\ngroup = 128\n"
           "[[methods]]\nquantizer = \"grinqh\"\ngroup = 128\nlevels = [0, 2, 4, 8]\n"
           "policy = { name = \"grinqh\", bits = 3.0 }\n";
  }
  std::string write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ / name, std::ios::binary) << text;
    return (folder_ / name).string();
  }
  Words words(const std::string& out, const Words& more = {}, const std::string& file = "sweep.toml") const {
    Words all{"run", (folder_ / file).string(), "--out", (folder_ / out).string()};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  Finished run_sweep(const std::string& out, const Words& more = {},
                     const std::string& file = "sweep.toml") const {
    return run(words(out, more, file));
  }
  // Result files, not the cache's.
  std::vector<std::filesystem::path> results(const std::string& out) const {
    std::vector<std::filesystem::path> found;
    if (std::filesystem::exists(folder_ / out))
      for (const auto& entry : std::filesystem::directory_iterator(folder_ / out))
        if (entry.path().extension() == ".h5") found.push_back(entry.path());
    std::ranges::sort(found);
    return found;
  }
  std::vector<Json> figures(const std::string& out) const {
    std::vector<Json> rows;
    for (const Json& row : report_rows(folder_ / out)) rows.push_back(figures_of(row));
    return rows;
  }

  TempDir folder_;
};

}  // namespace grinqh::testing
