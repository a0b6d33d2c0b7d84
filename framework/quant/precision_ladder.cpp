#include "quant/precision_ladder.h"

#include <algorithm>

namespace grinqh {

PrecisionLadder::PrecisionLadder(std::string_view name, std::span<const Level> precisions) {
  const std::string where = fmt::format("base = \"{}\"", name);
  const auto& entry = Registry<PrecisionPolicy>::get().at(name, "base");
  for (const Level precision : precisions)
    rungs_.push_back({precision, entry.make({{"bits", Setting{static_cast<double>(precision), where}}})});
}

CollectorNames PrecisionLadder::needs() const {
  CollectorNames names;
  for (const Rung& rung : rungs_) names.merge(rung.policy->needs());
  return names;
}

void PrecisionLadder::prepare(const LinearTask& task, const QuantizedLinear& quantized) {
  for (const Rung& rung : rungs_) rung.policy->prepare(task, quantized);
}

void PrecisionLadder::allot() {
  for (const Rung& rung : rungs_) rung.policy->allot();
}

bool PrecisionLadder::tunes() const {
  return std::ranges::any_of(rungs_, [](const Rung& rung) { return rung.policy->tunes(); });
}

void PrecisionLadder::tune(BlockTrial& trial) {
  for (const Rung& rung : rungs_) {
    if (!rung.policy->tunes()) continue;
    tuned_ = rung.policy.get();
    rung.policy->tune(trial);
  }
  tuned_ = nullptr;
}

Json PrecisionLadder::findings() const {
  Json all;
  for (const Rung& rung : rungs_)
    if (Json found = rung.policy->findings(); !found.is_null())
      all[std::to_string(rung.precision)] = std::move(found);
  return all;
}

const PrecisionPolicy& PrecisionLadder::serving(Level precision) const {
  if (tuned_) return *tuned_;
  const auto rung = std::ranges::find(rungs_, precision, &Rung::precision);
  check(rung != rungs_.end(), "a token's precision is one of the chain's");
  return *rung->policy;
}

bool PrecisionLadder::looks_at_inputs() const {
  return std::ranges::any_of(rungs_, [](const Rung& rung) { return rung.policy->looks_at_inputs(); });
}

std::vector<const ChannelGrading*> PrecisionLadder::gradings(const std::string& layer) const {
  std::vector<const ChannelGrading*> all;
  for (const Rung& rung : rungs_) {
    const std::vector<const ChannelGrading*> some = rung.policy->gradings(layer);
    if (some.empty()) return {};
    all.insert(all.end(), some.begin(), some.end());
  }
  return all;
}

const ChannelGrading* PrecisionLadder::grading_of(const std::string& layer, const Step& step,
                                                  Level precision) const {
  return serving(precision).grading_of(layer, step);
}

Precision PrecisionLadder::choose(const std::string& layer, std::span<const Step> steps,
                                  std::span<const Level> precisions, Matrix<const float> x,
                                  Matrix<Level> scratch) const {
  // Neighbours of one precision, as the tokens of a sequence between two drops are, go together.
  for (size_t begin = 0; begin < steps.size();) {
    const Level precision = precisions[begin];
    const auto last = std::ranges::find_if(precisions.subspan(begin),
                                           [&](Level other) { return !tuned_ && other != precision; });
    const auto end = static_cast<size_t>(last - precisions.begin());
    const PrecisionPolicy& policy = serving(precision);
    check(policy.offset(layer).empty(), "a token's precision does not change what is added to outputs");
    const auto first_row = static_cast<int64_t>(begin), end_row = static_cast<int64_t>(end);
    const Matrix<Level> rows = scratch.rows_between(first_row, end_row);
    const Precision chosen =
        policy.choose(layer, steps.subspan(begin, end - begin), x.rows_between(first_row, end_row), rows);
    if (begin == 0 && end == steps.size()) return chosen;
    if (chosen.levels.empty())
      for (int64_t t = 0; t < rows.rows; ++t) std::ranges::fill(rows.row_span(t), chosen.uniform);
    begin = end;
  }
  return {kFullLevel, scratch};
}

}  // namespace grinqh
