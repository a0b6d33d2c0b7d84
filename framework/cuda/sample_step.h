// The end of a decode step: every sequence's token from its logits, and what the next step begins with. No
// host takes part.
#pragma once

#include "cuda/types.h"

namespace grinqh::cuda {

// In device memory, one of each a sequence.
struct SequenceState {
  int32_t* tokens = nullptr;     // of the step to come
  int32_t* positions = nullptr;  // where they stand
  int32_t* steps = nullptr;      // steps done
  uint64_t* chance = nullptr;    // states of the streams that draws come from (core/rng.h)
};

struct SampleStep {
  ConstView logits;       // [sequences, vocab], f32
  float temperature = 0;  // 0: the greatest logit, the first of equals
  SequenceState state;
  ConstView embedding;
  View x;                      // [sequences, hidden], f32: of the tokens drawn
  int32_t* history = nullptr;  // [ring, sequences] in memory that the host sees; step k's in row k % ring
  int32_t ring = 1;
  void* scratch = nullptr;  // sample_scratch() bytes, zero before the first step
};

int64_t sample_scratch(int64_t sequences);
void sample_step(const SampleStep& task, Stream stream);

}  // namespace grinqh::cuda
