#include "runtime/scheduled.h"

#include <algorithm>

#include "core/error.h"

namespace grinqh {

Schedules::Schedules(const LinearExecutor& linears) : policy_(linears.policy()) {
  if (policy_) input_ = policy_->schedule_input();
}

void Schedules::begin(const Transformer& transformer, const KvCache& cache,
                      const std::vector<std::span<const int32_t>>& tokens) {
  if (input_ == ScheduleInput::nothing) return;
  for (size_t s = 0; s < tokens.size(); ++s) {
    const auto length = static_cast<int64_t>(tokens[s].size());
    const int64_t last = transformer.blocks() - 1;
    const MatrixBuffer<float> keys = transformer.to_host(cache.keys(last, s).rows_between(0, length));
    const MatrixBuffer<float> values = transformer.to_host(cache.values(last, s).rows_between(0, length));
    schedules_.push_back(policy_->schedule({tokens[s], keys, values, transformer.model().config.kv_heads}));
    check(schedules_.back() != nullptr, "a policy that names a schedule's input makes one");
  }
}

Level Schedules::level(size_t sequence, int32_t index, std::span<const float> logits) {
  return input_ == ScheduleInput::nothing ? kFullLevel : schedules_[sequence]->level(index, logits);
}

namespace {

// Rows of a batch of whole sequences, computed a part at a time over one cache.
class PartialRuns {
 public:
  PartialRuns(const Transformer& transformer, const Batch& batch, QuantizedExecutor& linears,
              RowTraffic& traffic)
      : transformer_(transformer),
        batch_(batch),
        linears_(linears),
        traffic_(traffic),
        features_(transformer.allocate(batch.rows(), transformer.hidden())) {
    int64_t longest = 0;
    for (const SequenceRows& sequence : batch.sequences) {
      check(sequence.past == 0, "schedules need whole sequences");
      longest = std::max(longest, sequence.count);
    }
    cache_ = std::make_unique<KvCache>(
        transformer.make_cache(static_cast<int64_t>(batch.sequences.size()), longest));
    done_.assign(batch.sequences.size(), 0);
    traffic_.codes.assign(static_cast<size_t>(batch.rows()), 0);
    traffic_.total.assign(static_cast<size_t>(batch.rows()), 0);
  }

  // Runs rows [done, until[s]) of every sequence at the levels that `steps` has by now.
  void run(const std::vector<int64_t>& until, const std::vector<Step>& steps) {
    Batch part;
    std::vector<int64_t> first_rows;  // of each sequence's part, in the whole batch
    for (size_t s = 0; s < done_.size(); ++s) {
      part.sequences.push_back({part.rows(), until[s] - done_[s], done_[s]});
      first_rows.push_back(batch_.sequences[s].first_row + done_[s]);
      for (int64_t t = done_[s]; t < until[s]; ++t) {
        const auto row = static_cast<size_t>(batch_.sequences[s].first_row + t);
        part.tokens.push_back(batch_.tokens[row]);
        part.steps.push_back(steps[row]);
      }
    }
    done_ = until;
    if (part.rows() == 0) return;
    const Tensor features = transformer_.run(part, linears_, cache_.get());
    for (size_t s = 0; s < first_rows.size(); ++s) {
      const SequenceRows& from = part.sequences[s];
      transformer_.copy(features.view().rows_between(from.first_row, from.first_row + from.count),
                        features_.view().rows_between(first_rows[s], first_rows[s] + from.count));
      std::copy_n(linears_.traffic().codes.begin() + from.first_row, from.count,
                  traffic_.codes.begin() + first_rows[s]);
      std::copy_n(linears_.traffic().total.begin() + from.first_row, from.count,
                  traffic_.total.begin() + first_rows[s]);
    }
  }

  const KvCache& cache() const { return *cache_; }
  const std::vector<int64_t>& done() const { return done_; }
  Tensor& features() { return features_; }

 private:
  const Transformer& transformer_;
  const Batch& batch_;
  QuantizedExecutor& linears_;
  RowTraffic& traffic_;
  Tensor features_;
  std::unique_ptr<KvCache> cache_;
  std::vector<int64_t> done_;  // tokens of each sequence that the cache holds
};

std::vector<int64_t> prompt_lengths(const Batch& batch) {
  std::vector<int64_t> lengths;
  for (const SequenceRows& sequence : batch.sequences) {
    int64_t length = 0;
    while (length < sequence.count &&
           batch.steps[static_cast<size_t>(sequence.first_row + length)].phase == Phase::prefill)
      ++length;
    if (length == 0)
      bad_input(
          "the policy's schedule looks at the prompt, and there is none: evaluate in phase continuation");
    lengths.push_back(length);
  }
  return lengths;
}

// Decode step by decode step, all sequences side by side.
void run_stepwise(const Transformer& transformer, const Batch& batch, Schedules& schedules,
                  std::vector<Step>& steps, PartialRuns& runs) {
  MatrixBuffer<float> logits(1, transformer.vocab());
  for (bool more = true; more;) {
    std::vector<int64_t> until = runs.done();
    more = false;
    for (size_t s = 0; s < until.size(); ++s) {
      const SequenceRows& sequence = batch.sequences[s];
      if (until[s] == sequence.count) continue;
      const int64_t row = sequence.first_row + until[s];
      transformer.head(runs.features().view().rows_between(row - 1, row), logits);
      Step& step = steps[static_cast<size_t>(row)];
      step.scheduled = schedules.level(s, step.index, logits.view().row_span(0));
      ++until[s];
      more = true;
    }
    runs.run(until, steps);
  }
}

}  // namespace

Tensor run_scheduled(const Transformer& transformer, const Batch& batch, QuantizedExecutor& linears,
                     RowTraffic& traffic) {
  Schedules schedules(linears);
  const bool decodes = std::ranges::count(batch.steps, Phase::decode, &Step::phase) > 0;
  if (schedules.input() == ScheduleInput::nothing || !decodes) {
    Tensor features = transformer.run(batch, linears);
    traffic = linears.traffic();
    return features;
  }
  std::vector<Step> steps = batch.steps;
  PartialRuns runs(transformer, batch, linears, traffic);
  const std::vector<int64_t> prompts = prompt_lengths(batch);
  runs.run(prompts, steps);
  std::vector<std::span<const int32_t>> tokens;
  std::vector<int64_t> ends;
  for (size_t s = 0; s < prompts.size(); ++s) {
    tokens.push_back(
        std::span(batch.tokens)
            .subspan(static_cast<size_t>(batch.sequences[s].first_row), static_cast<size_t>(prompts[s])));
    ends.push_back(batch.sequences[s].count);
  }
  schedules.begin(transformer, runs.cache(), tokens);
  if (schedules.input() == ScheduleInput::logits) {
    run_stepwise(transformer, batch, schedules, steps, runs);
  } else {
    for (size_t s = 0; s < prompts.size(); ++s)
      for (int64_t t = prompts[s]; t < ends[s]; ++t) {
        Step& step = steps[static_cast<size_t>(batch.sequences[s].first_row + t)];
        step.scheduled = schedules.level(s, step.index, {});
      }
    runs.run(ends, steps);
  }
  return std::move(runs.features());
}

}  // namespace grinqh
