// A unit's inputs of several tokens: copied to the warp's memory, made and graded there. Tokens take their
// turns in loops that are not unrolled: all tokens' instructions in a row are more than a multiprocessor
// keeps.
#pragma once

#include "kernels/nested/gemv_lists.cuh"
#include "kernels/nested/gemv_token_columns.cuh"

namespace grinqh::cuda::nested {

// Bytes of a lane's inputs of a token as they come; of gate and up, one behind the other, if they are bf16.
template <class S, class T>
constexpr int kRawBytes = static_cast<int>(sizeof(T)) * S::kLane;

template <int kBytes>
__device__ inline void copy_piece(uint32_t to, const void* from, int inside) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(from), "n"(kBytes), "r"(inside)
               : "memory");
}

template <class S, class T>
__device__ void request_rows(const Problem& p, const Warp<S>& warp, const Unit& unit) {
  constexpr int kBytes = kRawBytes<S, T>, kPiece = kBytes < 16 ? kBytes : 16;
  const int in = p.w.order.in, first = unit.first + warp.lane * S::kLane;
  const int inside = max(0, min(S::kLane, in - first)) * static_cast<int>(sizeof(T));
  const bool both = sizeof(T) == 2 && p.input.form == GemvInput::Form::swiglu;
#pragma unroll 1
  for (int t = 0; t < p.tokens; ++t) {
    const T* row = input_row<T>(p.input, t) + first;
    const uint32_t to = warp.inputs_at(t);
#pragma unroll
    for (int at = 0; at < kBytes; at += kPiece) {
      const int bytes = max(0, min(kPiece, inside - at));
      copy_piece<kPiece>(to + at, reinterpret_cast<const char*>(row) + at, bytes);
      if (both) copy_piece<kPiece>(to + kBytes + at, reinterpret_cast<const char*>(row + in) + at, bytes);
    }
  }
}

// Asks for a unit's inputs.
template <class S>
__device__ void request_tokens(const Problem& p, const Warp<S>& warp, const Unit& unit) {
  if (p.input.x.type == Type::bf16)
    request_rows<S, __nv_bfloat16>(p, warp, unit);
  else
    request_rows<S, float>(p, warp, unit);
  commit_copies();
}

// A lane's inputs of a token that has come.
template <class S, class T>
__device__ void read_inputs(const Problem& p, const Warp<S>& warp, const Unit& unit, int token, float factor,
                            const NormWeights<S>& weights, float (&x)[S::kLane]) {
  const auto* raw = reinterpret_cast<const T*>(warp.inputs(token));
  load_part(raw, S::kLane, x);
  if (p.input.form == GemvInput::Form::rms_norm) {
#pragma unroll
    for (int i = 0; i < S::kLane; ++i) x[i] *= factor * weights.of[i];
  } else if (p.input.form == GemvInput::Form::swiglu) {
    float up[S::kLane];
    if constexpr (sizeof(T) == 2) {
      load_part(raw + S::kLane, S::kLane, up);
    } else {
      const int in = p.w.order.in, first = unit.first + warp.lane * S::kLane;
      load_part(input_row<T>(p.input, token) + in + first, max(0, min(S::kLane, in - first)), up);
    }
#pragma unroll
    for (int i = 0; i < S::kLane; ++i) x[i] = gated(x[i], up[i]);
  }
}

// Makes the unit's inputs of all tokens, grades them if it is graded, and lists its channels. first: rows of
// the unit are under way.
template <class S>
__device__ void take_tokens(const Problem& p, const Warp<S>& warp, const Unit& unit, int turn, bool first,
                            const TokenFactors<S>& factors, const NormWeights<S>& weights) {
  const int valid = unit.channels - warp.lane * S::kLane;
  const bool grades = graded<S>(p, unit.layer);
  int most[S::kLane] = {};
  wait_copies<0>();
#pragma unroll 1
  for (int t = 0; t < p.tokens; ++t) {
    const float factor = factors.of_token(t);
    float x[S::kLane];
    uint32_t read[S::kLane];
    if (p.input.x.type == Type::bf16)
      read_inputs<S, __nv_bfloat16>(p, warp, unit, t, factor, weights, x);
    else
      read_inputs<S, float>(p, warp, unit, t, factor, weights, x);
    if (grades && valid > 0)
      grade_channels(p, warp, unit, x, read);
    else
#pragma unroll
      for (uint32_t& each : read) each = p.steps[unit.layer][0];
#pragma unroll
    for (int i = 0; i < S::kLane; ++i) {
      if (i >= valid) read[i] = 0;
      if (read[i] == 0) x[i] = 0;
      const uint32_t planes = read[i] >> 8;
      most[i] = max(most[i], static_cast<int>(planes));
      read[i] = (read[i] & 255u) | planes << 4;
    }
#pragma unroll
    for (int i = 0; i < S::kLane; i += 4) {
      warp.inputs(t)[i / 4] = make_float4(x[i], x[i + 1], x[i + 2], x[i + 3]);
      warp.read_at(t)[i / 4] = packed(read, i);
    }
  }
  uint32_t places[S::kLane];
  if (grades) {
    list_unit(p, warp, unit, turn, first, most, places);
  } else {
    if (!first) count_unlisted(p, warp, unit, turn, planes_ahead<S>(p, unit));
#pragma unroll
    for (uint32_t& each : places) each = kUnlisted;
  }
#pragma unroll
  for (int i = 0; i < S::kLane; i += 4) warp.places_at()[i / 4] = packed(places, i);
  __syncwarp();
}

}  // namespace grinqh::cuda::nested
