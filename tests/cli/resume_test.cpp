// Interrupted and damaged sweeps: nothing finished is computed again, and the rows are those of a whole run.
#include <fmt/format.h>

#include "cli/sweep.h"

namespace grinqh {
namespace {

using ::testing::Each;
using testing::Finished;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::Program;
using ::testing::SizeIs;
namespace fs = std::filesystem;

class Resume : public testing::Sweep {
 protected:
  static std::string many_points() {
    return "[[methods]]\nquantizer = \"rtn\"\nbits = [8, 6, 4, 3]\n"
           "[[methods]]\nquantizer = \"grinqh\"\npolicy = { name = \"grinqh\", bits = [4.0, 2.0] }\n";
  }

  // Lets the sweep run until it has finished `count` cells (or made the first cached stage), then kills it.
  void kill_after(size_t count, const testing::Words& more) {
    Program program(words("out", more));
    const auto reached = [&] {
      return count > 0 ? results("out").size() >= count : fs::exists(folder_ / "out" / "cache");
    };
    while (!reached()) {
      ASSERT_TRUE(program.running()) << program.wait().err;
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    program.kill();
  }
  std::map<fs::path, fs::file_time_type> times() const {
    std::map<fs::path, fs::file_time_type> found;
    for (const fs::path& path : results("out")) found[path] = fs::last_write_time(path);
    return found;
  }
  std::vector<fs::path> cached() const {
    std::vector<fs::path> found;
    for (const auto& entry : fs::directory_iterator(folder_ / "out" / "cache")) found.push_back(entry.path());
    return found;
  }
};

TEST_F(Resume, AKilledSweepGoesOnWhereItStopped) {
  write("sweep.toml", toml(many_points()));
  // Text drawn from the model is one more stage that a kill may hit.
  const testing::Words drawn{"--set", "calibration.text=self", "--set", "calibration.windows=2",
                             "--set", "calibration.context=32"};
  ASSERT_EQ(run_sweep("whole", drawn).status, 0);
  const std::vector<Json> whole = figures("whole");
  ASSERT_THAT(whole, SizeIs(6));

  std::map<fs::path, fs::file_time_type> finished;
  for (const size_t count : {0, 1, 3, 5}) {
    ASSERT_NO_FATAL_FAILURE(kill_after(count, drawn));
    const auto now = times();
    EXPECT_GE(now.size(), count);
    for (const auto& [path, time] : finished) EXPECT_EQ(now.at(path), time) << path << " was computed again";
    finished = now;
  }
  ASSERT_LT(finished.size(), 6u) << "the last kill came too late to test anything";
  const Finished last = run_sweep("out", drawn);
  ASSERT_EQ(last.status, 0) << last.err;
  EXPECT_THAT(last.err, HasSubstr(fmt::format("{} cells computed, {} reused, 0 failed", 6 - finished.size(),
                                              finished.size())));
  const auto end = times();
  for (const auto& [path, time] : finished) EXPECT_EQ(end.at(path), time) << path << " was computed again";
  EXPECT_EQ(figures("out"), whole);
  for (const auto& entry : fs::recursive_directory_iterator(folder_ / "out"))
    EXPECT_NE(entry.path().extension(), ".part") << entry.path();
}

TEST_F(Resume, DamagedResultsAndStagesAreMadeAgain) {
  ASSERT_EQ(run_sweep("out").status, 0);
  const std::vector<Json> rows = figures("out");
  const std::vector<fs::path> files = results("out");
  ASSERT_THAT(files, SizeIs(3));

  fs::resize_file(files[0], fs::file_size(files[0]) / 2);
  {
    std::fstream flip(files[1], std::ios::binary | std::ios::in | std::ios::out);
    flip.seekg(2000);
    const int byte = flip.get();
    flip.seekp(2000);
    flip.put(static_cast<char>(byte ^ 1));
  }
  const Finished mended = run_sweep("out");
  EXPECT_EQ(mended.status, 0) << mended.err;
  EXPECT_THAT(mended.err, HasSubstr("2 cells computed, 1 reused, 0 failed"));
  EXPECT_EQ(figures("out"), rows);

  ASSERT_THAT(cached(), Not(SizeIs(0)));
  for (const fs::path& stage : cached()) fs::resize_file(stage, fs::file_size(stage) / 2);
  const Finished fresh = run_sweep("out", {"--fresh"});
  EXPECT_EQ(fresh.status, 0) << fresh.err;
  EXPECT_THAT(fresh.err, HasSubstr("damaged and will be made again"));
  EXPECT_EQ(figures("out"), rows);

  // Without any cached stage finished cells are still finished.
  fs::remove_all(folder_ / "out" / "cache");
  EXPECT_THAT(run_sweep("out").err, HasSubstr("0 cells computed, 3 reused"));
}

TEST_F(Resume, AResultOfAnotherCellUnderTheSameNameIsNotBelieved) {
  write("sweep.toml", toml("[[methods]]\nquantizer = \"rtn\"\nbits = [8, 4]\n"));
  ASSERT_EQ(run_sweep("out").status, 0);
  const std::vector<Json> rows = figures("out");
  const std::vector<fs::path> files = results("out");
  fs::copy_file(files[0], files[1], fs::copy_options::overwrite_existing);
  EXPECT_THAT(run_sweep("out").err, HasSubstr("1 cells computed, 1 reused"));
  EXPECT_EQ(figures("out"), rows);
}

}  // namespace
}  // namespace grinqh
