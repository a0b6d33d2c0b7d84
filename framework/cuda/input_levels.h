// How many channels of a product's input each level reads, where the product itself makes its input.
#pragma once

#include "cuda/gemv_operands.h"
#include "cuda/grading.h"

namespace grinqh::cuda {

// counts(t, b) = channels of token t at level b, as the product reads them. counts: [tokens, 17],
// overwritten. A rule without budget.
void count_input_levels(const GemvInput& input, const GradingRule& rule, int32_t* counts, Stream stream);

// Row *step % ring of history = counts; history: [ring, count] in memory that the host sees.
void publish_counts(const int32_t* counts, int64_t count, const int32_t* step, int32_t* history, int32_t ring,
                    Stream stream);

}  // namespace grinqh::cuda
