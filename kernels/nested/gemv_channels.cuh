// Which rows a warp reads: channels by the magnitudes of their inputs, and the list of slots that hold them.
#pragma once

#include "cuda/decode.cuh"
#include "cuda/gemv_operands.cuh"
#include "kernels/nested/gemv_plan.cuh"

namespace grinqh::cuda::nested {

// Eight inputs of a token.
__device__ inline void inputs_at(const Problem& p, int token, int channel, const float* factors,
                                 float (&x)[8]) {
  const float factor = p.input.form == GemvInput::Form::rms_norm ? factors[token] : 1.0f;
  if (p.input.x.type == Type::bf16)
    load_inputs<__nv_bfloat16>(p.input, p.w.order.in, token, channel / 8, factor, x);
  else
    load_inputs<float>(p.input, p.w.order.in, token, channel / 8, factor, x);
}

// Whether a step's thresholds of every eighth channel lie at a multiple of 16 bytes.
__device__ inline bool aligned(const GradingRule& rule, int in) {
  return in % 4 == 0 && reinterpret_cast<uintptr_t>(rule.thresholds) % 16 == 0;
}

__device__ inline void load_thresholds(const GradingRule& rule, int step, int channel, int in,
                                       float (&v)[8]) {
  if (rule.shared) {
    const float threshold = rule.thresholds[step];
#pragma unroll
    for (int i = 0; i < 8; ++i) v[i] = threshold;
    return;
  }
  const float* from = rule.thresholds + int64_t{step} * in + channel;
  if (aligned(rule, in) && channel + 8 <= in) {
    load8(from).unpack(v);
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) v[i] = from[min(i, in - 1 - channel)];
  }
}

// 2^(7 - level): half a cell in units of the 8-bit step; nothing at level 0.
__device__ inline float half_cell(int level) {
  return level == 0 ? 0.0f : __uint_as_float(static_cast<uint32_t>(134 - level) << 23);
}

// Eight channels of a token. thresholds: of the first step, loaded ahead. half: half a cell of each channel
// at its level. put(plane, bits): which of them read a plane. Thresholds ascend from step to step; what is no
// number is read, so that it shows.
template <class Put>
__device__ inline void grade_channels(const Problem& p, int layer, const float (&x)[8], int channel,
                                      float (&thresholds)[8], float (&half)[8], const Put& put) {
  const NestedReading& reading = p.readings[layer];
  const uint8_t* steps = p.steps[layer];
  const int planes = p.w.order.planes, valid = p.w.order.in - channel;
  const uint32_t inside = valid >= 8 ? 255u : valid <= 0 ? 0u : (1u << valid) - 1;
  const float base = half_cell(reading.rule.count > 0 ? reading.rule.levels[0] : reading.level);
  int plane = 0;
  for (; plane < planes && steps[plane] == Problem::kAlways; ++plane) put(plane, inside);
#pragma unroll
  for (int i = 0; i < 8; ++i) half[i] = base;
#pragma unroll 1
  for (int step = 0; step + 1 < reading.rule.count; ++step) {
    if (step > 0) load_thresholds(reading.rule, step, channel, p.w.order.in, thresholds);
    const float cell = half_cell(reading.rule.levels[step + 1]);
    uint32_t bits = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i)
      if (!(fabsf(x[i]) <= thresholds[i])) {
        bits |= 1u << i;
        half[i] = cell;
      }
    for (; plane < planes && steps[plane] == step; ++plane) put(plane, bits & inside);
  }
  for (; plane < planes; ++plane) put(plane, 0u);
}

// Slots that hold a row, plane by plane. masks: [kMasks][planes][256 bits]. Returns how many, and where the
// last plane of them ends.
template <class S>
__device__ int list_slots(const Problem& p, const Span& span, const uint32_t* masks, uint32_t* list,
                          int& last_end) {
  const NestedOrder& order = p.w.order;
  const int lane = threadIdx.x % 32, blocks = (span.end - span.begin + 31) / NestedOrder::kBlock;
  int count = 0;
  last_end = 0;
  for (int plane = 0; plane < order.planes; ++plane) {
    const uint32_t mask = lane < blocks ? masks[plane * kRoundBlocks + lane] : 0;
    const uint32_t present = __ballot_sync(0xffffffffu, mask != 0);
    if (present == 0) continue;
    const int bits = order.bits(plane), end = order.end[plane], raise = last_end == 0 ? 0 : end - last_end;
    last_end = end;
    if (mask != 0) {
      const int before = __popc(present & ((1u << lane) - 1));
      uint32_t* to = list + (count + before) * SlotList<S>::kWords;
      const uint32_t at = static_cast<uint32_t>(
          (order.begin[plane] * order.padded_in + bits * (span.begin + lane * NestedOrder::kBlock)) *
              order.across +
          bits * span.part);
      to[0] = at | static_cast<uint32_t>(lane) << 24 |
              (before == 0 ? static_cast<uint32_t>(raise) << 27 : 0u) | (bits == 1 ? 1u << 31 : 0u);
      to[1] = mask;
      if constexpr (S::kTokens > 1)
        for (int t = 0; t < S::kTokens; ++t)
          to[2 + t] = masks[((t + 1) * order.planes + plane) * kRoundBlocks + lane];
    }
    count += __popc(present);
  }
  __syncwarp();
  return count;
}

}  // namespace grinqh::cuda::nested
