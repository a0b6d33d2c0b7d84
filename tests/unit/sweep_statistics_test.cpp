// Statistics that methods of a sweep share: small ones on disk, large ones in memory while somebody wants
// them.
#include "experiment/sweep_statistics.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace grinqh {
namespace {

// What was saved, as a disk keeps it.
struct Disk {
  std::map<int64_t, CalibrationStats> blocks;
  class Store final : public StatisticsStore {
   public:
    explicit Store(Disk& disk) : disk_(disk) {}
    CalibrationStats load(int64_t block) const override {
      const auto found = disk_.blocks.find(block);
      return found == disk_.blocks.end() ? CalibrationStats{} : found->second;
    }
    void save(int64_t block, const CalibrationStats& stats) const override {
      add_statistics(stats, disk_.blocks[block]);
    }

   private:
    Disk& disk_;
  };
};

CalibrationStats statistics(const std::string& name, size_t size, float value) {
  auto shared = std::make_shared<LayerStats>();
  shared->tokens = 5;
  shared->values[name].assign(size, value);
  return {{"q", shared}, {"k", shared}};
}

struct SharedStatistics : ::testing::Test {
  static constexpr int64_t kOnDisk = 64;  // bytes: 16 values
  Disk disk;
  SweepStatistics store{std::make_unique<Disk::Store>(disk), {kOnDisk, 0.0}};
};

TEST_F(SharedStatistics, SmallOnesGoToDisk) {
  store.save(3, statistics("small", 16, 1.5f));  // once, though two layers have them
  ASSERT_TRUE(disk.blocks.contains(3));
  EXPECT_EQ(store.load(3).at("q")->at("small")[15], 1.5f);
  EXPECT_TRUE(store.load(2).empty());
}

TEST_F(SharedStatistics, LargeOnesStayInMemoryForThoseWhoComeLater) {
  store.save(0, statistics("large", 17, 1.0f));
  EXPECT_TRUE(store.load(0).empty()) << "nobody asks for them";
  store.expect({}, {"large", "other"});
  store.save(0, statistics("large", 17, 2.0f));
  store.save(1, statistics("unwanted", 17, 3.0f));
  EXPECT_TRUE(disk.blocks.empty());
  EXPECT_EQ(store.load(0).at("k")->at("large")[16], 2.0f);
  EXPECT_EQ(store.load(0).at("k"), store.load(0).at("q")) << "one object";
  EXPECT_TRUE(store.load(1).empty());
  store.save(0, statistics("small", 2, 4.0f));
  const CalibrationStats both = store.load(0);
  EXPECT_EQ(both.at("q")->at("large")[0], 2.0f);
  EXPECT_EQ(both.at("q")->at("small")[0], 4.0f);
  EXPECT_EQ(both.at("k"), both.at("q"));
  store.expect({"large"}, {"other"});
  EXPECT_TRUE(store.load(0).at("q")->has("large")) << "asked for now";
  store.expect({}, {"other"});
  EXPECT_FALSE(store.load(0).at("q")->has("large")) << "let go";
  EXPECT_TRUE(store.load(0).at("q")->has("small"));
}

TEST_F(SharedStatistics, NothingIsHeldWithoutRoom) {
  SweepStatistics full(std::make_unique<Disk::Store>(disk), {kOnDisk, 1.0});  // all memory is to stay free
  full.expect({}, {"large"});
  full.save(0, statistics("large", 17, 1.0f));
  EXPECT_TRUE(full.load(0).empty());
  EXPECT_TRUE(disk.blocks.empty());
}

// What is computed from statistics is computed once, for layers and for methods that share them.
TEST_F(SharedStatistics, BringAlongWhatWasDerivedFromThem) {
  CalibrationStats stats = statistics("large", 20, 1.0f);
  const auto shared = std::make_shared<LayerStats>(*stats.at("q"));
  shared->derived = std::make_shared<Derived>();
  stats = {{"q", shared}, {"k", shared}};
  store.expect({}, {"large"});
  store.save(0, stats);
  int made = 0;
  const auto ask = [&](const char* layer, const std::string& name) {
    return *store.load(0).at(layer)->derive<int>("large", name, [&] { return ++made; });
  };
  EXPECT_EQ(ask("q", "one"), 1);
  EXPECT_EQ(ask("k", "one"), 1);
  EXPECT_EQ(ask("k", "two"), 2);
  store.save(0, statistics("small", 2, 4.0f));
  EXPECT_EQ(ask("q", "two"), 2) << "also where others have come to them";
  LayerStats plain = *statistics("large", 2, 1.0f).at("q");
  for (int i = 3; i < 5; ++i) EXPECT_EQ(*plain.derive<int>("large", "one", [&] { return ++made; }), i);
}

}  // namespace
}  // namespace grinqh
