#include "experiment/sweep_statistics.h"

#include <algorithm>
#include <set>

#include "core/host_memory.h"

namespace grinqh {

namespace {

int64_t bytes_of(const CalibrationStats& stats) {
  std::set<const LayerStats*> counted;  // layers that share an input have one object
  int64_t bytes = 0;
  for (const auto& [id, all] : stats)
    if (counted.insert(all.get()).second)
      for (const auto& [name, values] : all->values) bytes += std::ssize(values) * int64_t{sizeof(float)};
  return bytes;
}

bool any_of(const CalibrationStats& stats, const CollectorNames& names) {
  return std::ranges::any_of(stats, [&](const auto& layer) {
    return std::ranges::any_of(names, [&](const auto& name) { return layer.second->has(name); });
  });
}

}  // namespace

void SweepStatistics::expect(const CollectorNames& now, const CollectorNames& later) {
  later_ = later;
  std::erase_if(
      held_, [&](const auto& block) { return !any_of(block.second, now) && !any_of(block.second, later); });
}

CalibrationStats SweepStatistics::load(int64_t block) const {
  CalibrationStats stats = disk_->load(block);
  if (const auto held = held_.find(block); held != held_.end()) add_statistics(held->second, stats);
  return stats;
}

void SweepStatistics::save(int64_t block, const CalibrationStats& stats) const {
  const int64_t bytes = bytes_of(stats);
  if (bytes <= limits_.on_disk) return disk_->save(block, stats);
  if (!any_of(stats, later_) || !has_room_for(bytes)) return;
  add_statistics(stats, held_[block]);
}

bool SweepStatistics::has_room_for(int64_t bytes) const {
  const HostMemory memory = host_memory();
  return static_cast<double>(memory.available - 2 * bytes) >
         limits_.free_share * static_cast<double>(memory.total);
}

}  // namespace grinqh
