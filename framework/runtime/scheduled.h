// Forward passes under policies that decide by sequence: prompts first, then what the schedules say.
#pragma once

#include <memory>
#include <vector>

#include "runtime/linear_executor.h"
#include "runtime/transformer.h"

namespace grinqh {

// The schedules of a set of sequences; empty ones if the policy decides by token alone.
class Schedules {
 public:
  explicit Schedules(const LinearExecutor& linears);

  ScheduleInput input() const { return input_; }
  // Once the prompts are in the cache: tokens[s] is the prompt of sequence s.
  void begin(const Transformer& transformer, const KvCache& cache,
             const std::vector<std::span<const int32_t>>& tokens);
  // The level of a sequence's decode step, to be asked in turn.
  Level level(size_t sequence, int32_t index, std::span<const float> logits);

 private:
  const PrecisionPolicy* policy_;
  ScheduleInput input_ = ScheduleInput::nothing;
  std::vector<std::unique_ptr<SequenceSchedule>> schedules_;
};

// transformer.run() of whole sequences (past = 0) with schedules honoured: each token gets the bits that it
// gets one by one. `traffic`: what each row read. BadInput if a schedule needs a prompt and a sequence begins
// with a decoded token.
Tensor run_scheduled(const Transformer& transformer, const Batch& batch, QuantizedExecutor& linears,
                     RowTraffic& traffic);

}  // namespace grinqh
