// Which rows a warp reads: its channels graded by the magnitudes of their inputs, and listed by how many
// planes of them are read.
#pragma once

#include "cuda/decode.cuh"
#include "cuda/gemv_operands.cuh"
#include "cuda/shared_memory.cuh"
#include "kernels/nested/gemv_plan.cuh"

namespace grinqh::cuda::nested {

constexpr uint32_t kUnread = 0xffff;  // instead of a place in the list

// A lane's inputs of a token.
template <class S>
__device__ inline void inputs_at(const Problem& p, int token, int channel, const float* factors,
                                 float (&x)[S::kLane]) {
  const float factor = p.input.form == GemvInput::Form::rms_norm ? factors[token] : 1.0f;
  float eight[8];
  if (p.input.x.type == Type::bf16)
    load_inputs<__nv_bfloat16>(p.input, p.w.order.in, token, channel / 8, factor, eight);
  else
    load_inputs<float>(p.input, p.w.order.in, token, channel / 8, factor, eight);
  const bool upper = S::kLane == 4 && (channel & 4) != 0;
#pragma unroll
  for (int i = 0; i < S::kLane; ++i) x[i] = upper ? eight[(i + 4) % 8] : eight[i];
}

// Thresholds of a warp's channels, as far as they can be brought before the inputs are there: those that all
// channels share in registers, others of the first unit in memory that the ring does not use yet.
struct Thresholds {
  static constexpr int kAhead = 4;
  float shared[kAhead] = {};
  const float* staged = nullptr;  // [steps][unit]
  int steps = 0;                  // staged

  __device__ void stage(const Problem& p, const GradingRule& rule, int begin, int count, int lane,
                        uint8_t* to, int bytes) {
    if (rule.shared) {
#pragma unroll
      for (int s = 0; s < kAhead; ++s)
        if (s + 1 < rule.count) shared[s] = rule.thresholds[s];
      return;
    }
    staged = reinterpret_cast<const float*>(to);
    steps = min(rule.count - 1, bytes / (p.unit * 4));
    if (p.w.order.in % 4 != 0 || reinterpret_cast<uintptr_t>(rule.thresholds) % 16 != 0) steps = 0;
    const int wanted = min(p.unit, count);
    for (int s = 0; s < steps; ++s)
      for (int c = lane * 4; c < wanted; c += 128)
        copy_async(shared_address(to) + (s * p.unit + c) * 4,
                   rule.thresholds + int64_t{s} * p.w.order.in + begin + c, true);
    commit_copies();
  }

  // step(threshold(i)) for kCount channels from `at` of the unit on, which is `channel` of the layer.
  template <int kCount, class Step>
  __device__ void at(const Problem& p, const GradingRule& rule, int number, bool first_unit, int at,
                     int channel, const Step& step) const {
    if (rule.shared) {
      float threshold;
      if (number < kAhead) {
        threshold = shared[0];
#pragma unroll
        for (int s = 1; s < kAhead; ++s)
          if (s == number) threshold = shared[s];
      } else {
        threshold = rule.thresholds[number];
      }
      step([&](int) { return threshold; });
    } else if (first_unit && number < steps) {
      float v[kCount];
#pragma unroll
      for (int i = 0; i < kCount / 4; ++i) {
        const float4 four = reinterpret_cast<const float4*>(staged + number * p.unit + at)[i];
        v[4 * i] = four.x, v[4 * i + 1] = four.y, v[4 * i + 2] = four.z, v[4 * i + 3] = four.w;
      }
      step([&](int i) { return v[i]; });
    } else {
      const float* from = rule.thresholds + int64_t{number} * p.w.order.in + channel;
      float v[kCount];
#pragma unroll
      for (int i = 0; i < kCount; ++i) v[i] = from[max(0, min(i, p.w.order.in - 1 - channel))];
      step([&](int i) { return v[i]; });
    }
  }
};

// A unit's channels by falling number of planes. planes: of this lane's. places: where they stand in the
// list, or -1; counts(plane): how many have that plane; each number of planes begins at a multiple of kWhole,
// and places between count. All lanes of a warp. (A counting sort: a byte of Word for each number of planes,
// most planes lowest. A byte that reaches 256 belongs to the last of the channels, and what it carries into
// is empty.)
template <class Word, int kWhole, int kCount>
__device__ inline void place_channels(const int (&planes)[kCount], int most_planes, int lane,
                                      int (&places)[kCount], uint16_t* counts) {
  Word mine = 0;
#pragma unroll
  for (int i = 0; i < kCount; ++i)
    if (planes[i] > 0) mine += Word{1} << 8 * (most_planes - planes[i]);
  Word through = mine;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const Word other = __shfl_up_sync(0xffffffffu, through, step);
    if (lane >= step) through += other;
  }
  Word next = through - mine;  // of lanes before this one
  const Word before_last = __shfl_sync(0xffffffffu, next, 31), last = __shfl_sync(0xffffffffu, mine, 31);
  int begin = 0;
#pragma unroll
  for (int field = 0; field < static_cast<int>(sizeof(Word)); ++field) {
    if (field >= most_planes) break;
    next += Word{static_cast<uint32_t>(begin) & 255u} << 8 * field;
    begin += static_cast<int>(before_last >> 8 * field & 255) + static_cast<int>(last >> 8 * field & 255);
    begin = (begin + kWhole - 1) / kWhole * kWhole;
    if (lane == 0) counts[most_planes - 1 - field] = static_cast<uint16_t>(begin);
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const int field = planes[i] > 0 ? 8 * (most_planes - planes[i]) : 0;
    places[i] = planes[i] > 0 ? static_cast<int>(next >> field & 255) : -1;
    if (planes[i] > 0) next += Word{1} << field;
  }
}

}  // namespace grinqh::cuda::nested
