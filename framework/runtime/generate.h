// Token-by-token generation for a batch of prompts.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "runtime/decoder.h"
#include "runtime/linear_executor.h"
#include "runtime/transformer.h"

namespace grinqh {

// Continues every prompt by `count` tokens; the prompts run in phase prefill, each further token is one
// decode step, at the level of its sequence's schedule if the executor's policy makes them.
// `on_token(sequence, token)` is called as tokens come; returning false ends all. counts_bits: it may ask a
// quantized executor for the traffic of the step that the token is from. Returns [sequences][count], shorter
// if ended.
using Prompts = std::vector<std::span<const int32_t>>;
std::vector<std::vector<int32_t>> generate(
    const Transformer& transformer, LinearExecutor& linears, const Prompts& prompts, int64_t count,
    const Sampling& sampling,
    const std::function<bool(size_t, int32_t)>& on_token = [](size_t, int32_t) { return true; },
    bool counts_bits = false);
// The same by a decoder of this transformer and executor that has room for them.
std::vector<std::vector<int32_t>> generate(const Transformer& transformer, LinearExecutor& linears,
                                           Decoder& decoder, const Prompts& prompts, int64_t count,
                                           const Sampling& sampling,
                                           const std::function<bool(size_t, int32_t)>& on_token);
// prompts: [sequences, length].
std::vector<std::vector<int32_t>> generate(
    const Transformer& transformer, LinearExecutor& linears, Matrix<const int32_t> prompts, int64_t count,
    const Sampling& sampling,
    const std::function<bool(size_t, int32_t)>& on_token = [](size_t, int32_t) { return true; },
    bool counts_bits = false);

// The index of the greatest logit (the first of equals), or a draw from softmax(logits / temperature).
int32_t argmax(std::span<const float> logits);
int32_t sample(std::span<const float> logits, double temperature, double uniform);

}  // namespace grinqh
