// Statistics that the methods of a sweep share: small ones on disk, where the next run finds them too, and
// large ones in memory, for as long as a method is still to come that asks for them. Writing and reading a
// gigabyte a block would cost more than collecting it again.
#pragma once

#include <map>
#include <memory>

#include "calib/calibrate.h"

namespace grinqh {

class SweepStatistics final : public StatisticsStore {
 public:
  struct Limits {
    int64_t on_disk = int64_t{64} << 20;  // bytes a block
    // Of the host's memory, what stays free. What is derived from statistics takes as much as they do.
    double free_share = 0.2;
  };
  explicit SweepStatistics(std::unique_ptr<StatisticsStore> disk)
      : SweepStatistics(std::move(disk), Limits()) {}
  SweepStatistics(std::unique_ptr<StatisticsStore> disk, const Limits& limits)
      : disk_(std::move(disk)), limits_(limits) {}

  // What the method at hand asks for, and those after it: others are no longer held in memory, and what comes
  // anew is held for those after it.
  void expect(const CollectorNames& now, const CollectorNames& later);

  CalibrationStats load(int64_t block) const override;
  void save(int64_t block, const CalibrationStats& stats) const override;

 private:
  bool has_room_for(int64_t bytes) const;

  std::unique_ptr<StatisticsStore> disk_;
  Limits limits_;
  CollectorNames later_;
  mutable std::map<int64_t, CalibrationStats> held_;  // by block
};

}  // namespace grinqh
