#include "kernels/group_affine/cpu_gemv_kernel.h"

#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/group_affine/cpu_gemv_kernel.cpp"
#define HWY_WANT_AVX3_DL
#include <hwy/foreach_target.h>  // compiles what follows once for every instruction set
#include <hwy/highway.h>

#include "kernels/common/byte_products-inl.h"

HWY_BEFORE_NAMESPACE();
namespace grinqh::group_affine::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using namespace grinqh::HWY_NAMESPACE;

// x times its column's factor, `count` of kLanes inputs; zeros beyond.
HWY_INLINE VF load_inputs(const float* x, const float* columns, int64_t count) {
  const DF d;
  if (count >= kLanes) {
    const VF v = hn::LoadU(d, x);
    return columns ? hn::Mul(v, hn::LoadU(d, columns)) : v;
  }
  HWY_ALIGN float padded[kLanes] = {};
  for (int64_t i = 0; i < count; ++i) padded[i] = columns ? x[i] * columns[i] : x[i];
  return hn::Load(d, padded);
}

void RoundInputs(std::span<const Span> spans, const float* x, const float* columns, RoundedInputs to) {
  const DI di;
  const hn::Rebind<int8_t, DI> db;
  const auto at = [&](const Span& span, int64_t i) HWY_ATTR {
    return load_inputs(x + span.input + i, columns ? columns + span.input + i : nullptr, span.inputs - i);
  };
  for (const Span& span : spans) {
    VI most = hn::Zero(di);
    for (int64_t i = 0; i < span.inputs; i += kLanes) most = hn::Max(most, magnitude_bits(at(span, i)));
    const Step step(greatest(most), kGreatestLimbs);
    const VF inverse = hn::Set(DF(), step.inverse);
    VI sum = hn::Zero(di);
    for (int64_t b = 0; b < span.blocks; ++b) {
      int8_t* to_block = to.limbs + (span.block + b) * 2 * CpuOrder::kBlock;
      for (int64_t i = 0; i < CpuOrder::kBlock; i += kLanes) {
        const VI rounded = whole_steps(at(span, b * CpuOrder::kBlock + i), inverse);
        const Limbs limbs = limbs_of(rounded);
        sum = hn::Add(sum, rounded);
        hn::StoreU(hn::DemoteTo(db, limbs.high), db, to_block + i);
        hn::StoreU(hn::DemoteTo(db, limbs.low), db, to_block + CpuOrder::kBlock + i);
      }
    }
    const auto at_span = &span - spans.data();
    to.steps[at_span] = step.step;
    to.sums[at_span] = step.step * static_cast<float>(hn::GetLane(hn::SumOfLanes(di, sum)));
  }
}

// What a pass reads of codes: kTaken bits, kFrom bits up in fields of kStored.
template <int kStoredBits, int kFromBit = 0, int kTakenBits = kStoredBits>
struct Part {
  static constexpr int kStored = kStoredBits, kFrom = kFromBit, kTaken = kTakenBits;
};

// Codes of inputs 4 kQuad .. 4 kQuad + 3 of a block, one a byte. from: where the part's first 64 bytes have
// this vector's lanes.
template <class P, int kQuad>
HWY_INLINE VI codes_of(const uint8_t* from) {
  const auto chunk = [&](int at) GRINQH_INLINE_ATTR {
    return hn::LoadU(DI(), reinterpret_cast<const int32_t*>(from + 64 * at));
  };
  const VI mask = every_byte((1u << P::kTaken) - 1);
  if constexpr (P::kStored == 3 && kQuad >= 6) {
    const VI upper = hn::And(shift_right<kQuad - 2>(chunk(2)), every_byte(4));
    return hn::Or(hn::And(shift_right<6>(chunk(kQuad - 6)), every_byte(3)), upper);
  } else {
    constexpr int kFields = 8 / P::kStored;
    const VI word = shift_right<kQuad % kFields * P::kStored + P::kFrom>(chunk(kQuad / kFields));
    return P::kTaken == 8 ? word : hn::And(word, mask);
  }
}

// How many vectors of outputs a pass takes and how many sums each of them has: as many as the registers hold,
// as inputs are loaded once for all, and an addition must not wait for the one before.
constexpr bool kManyRegisters = HWY_MAX_BYTES >= 64;
template <int kTokens>
constexpr int kVectors = kManyRegisters ? 2 : 4 / kTokens;
template <int kTokens>
constexpr int kSplit = kManyRegisters&& kTokens == 1 ? 2 : 1;

template <int kTokens>
using Totals = VI[kTokens][kVectors<kTokens>];

// Lines that are fetched while a block is summed: memory answers after hundreds of instructions, and the
// hardware's own fetching ahead ends with every page.
struct Ahead {
  const uint8_t* line;  // for the first block
  int64_t lines;        // a block
};
constexpr int64_t kAheadBytes = 4096;

// Adds a part of the codes of some blocks, their products with each token's inputs.
template <int kTokens, class P>
HWY_NOINLINE void add_part(const uint8_t* const* from, int64_t stride, int64_t blocks, const int8_t* const* x,
                           Ahead ahead, Totals<kTokens>& totals) {
  constexpr int64_t kBlocks = most_additions((1 << P::kTaken) - 1) / 8;
  static_assert(kBlocks > 0);
  for (int64_t begin = 0; begin < blocks; begin += kBlocks) {
    LimbSums sums[kTokens][kVectors<kTokens>][kSplit<kTokens>];
    for (int64_t b = begin; b < std::min(begin + kBlocks, blocks); ++b) {
      for (int64_t n = 0; n < ahead.lines; ++n) __builtin_prefetch(ahead.line + (b * ahead.lines + n) * 64);
      unrolled<8>([&](auto quad) GRINQH_INLINE_ATTR {
        unrolled<kTokens>([&](auto t) GRINQH_INLINE_ATTR {
          const auto limb = [&](int64_t at) GRINQH_INLINE_ATTR {
            int32_t four;
            std::memcpy(&four, x[t()] + (b * 2 + at) * CpuOrder::kBlock + quad() * 4, 4);
            return hn::Set(DI(), four);
          };
          const Limbs inputs{limb(0), limb(1)};
          unrolled<kVectors<kTokens>>([&](auto v) GRINQH_INLINE_ATTR {
            sums[t()][v()][quad() % kSplit<kTokens>].add(
                codes_of<P, decltype(quad)::value>(from[v()] + b * stride), inputs);
          });
        });
      });
    }
    unrolled<kTokens>([&](auto t) GRINQH_INLINE_ATTR {
      unrolled<kVectors<kTokens>>([&](auto v) GRINQH_INLINE_ATTR {
        for (const LimbSums& each : sums[t()][v()]) totals[t()][v()] = each.added_to(totals[t()][v()]);
      });
    });
  }
}

// Sums of codes times inputs of a span. from: the span's first block.
template <int kTokens>
HWY_INLINE void sum_span(int bits, const uint8_t* const* from, int64_t stride, int64_t blocks,
                         const int8_t* const* x, Ahead ahead, Totals<kTokens>& totals) {
  // The upper bits of codes, then, `lines` 64 bytes on, their lower four.
  const auto add_two = [&](auto upper, auto lower, int lines) GRINQH_INLINE_ATTR {
    add_part<kTokens, decltype(upper)>(from, stride, blocks, x, ahead, totals);
    const uint8_t* from_lower[kVectors<kTokens>];
    for (int64_t v = 0; v < kVectors<kTokens>; ++v) from_lower[v] = from[v] + 64 * lines;
    for (auto& of_token : totals)
      for (VI& total : of_token) total = hn::ShiftLeft<4>(total);
    add_part<kTokens, decltype(lower)>(from_lower, stride, blocks, x, Ahead(), totals);
  };
  switch (bits) {
    case 2:
      return add_part<kTokens, Part<2>>(from, stride, blocks, x, ahead, totals);
    case 3:
      return add_part<kTokens, Part<3>>(from, stride, blocks, x, ahead, totals);
    case 4:
      return add_part<kTokens, Part<4>>(from, stride, blocks, x, ahead, totals);
    case 5:
      return add_two(Part<1>(), Part<4>(), 1);
    case 6:
      return add_two(Part<2>(), Part<4>(), 2);
    case 7:
      return add_two(Part<3>(), Part<4>(), 3);
    default:
      if constexpr (kNarrowSums)
        return add_two(Part<8, 4, 4>(), Part<8, 0, 4>(), 0);
      else
        return add_part<kTokens, Part<8>>(from, stride, blocks, x, ahead, totals);
  }
}

// Zero points of kLanes outputs. at: from the first of the tile.
HWY_INLINE VF load_zeros(const CpuOrder& order, const uint8_t* zeros, int64_t at) {
  if (order.zeros == Zeros::middle) return hn::Set(DF(), static_cast<float>(1 << (order.bits - 1)));
  if (order.zeros == Zeros::halves) return load_halves(reinterpret_cast<const uint16_t*>(zeros) + at);
  const hn::Rebind<uint8_t, DI> db;
  return hn::ConvertTo(DF(), hn::PromoteTo(DI(), hn::LoadU(db, zeros + at)));
}

// y += scale * (sum of codes times inputs - zero * sum of inputs), for kTokens tokens and the vectors of
// outputs from `first` on, one span.
template <int kTokens>
HWY_INLINE void add_span(const CpuOrder& order, const Span& span, int64_t at_span, const TileWeights& weights,
                         const RoundedInputs* tokens, int64_t first, float* y) {
  const DF d;
  constexpr int64_t kCount = kVectors<kTokens>;
  const uint8_t* codes = weights.codes + span.block * order.block_bytes();
  const uint8_t* from[kCount];
  for (int64_t v = 0; v < kCount; ++v) {
    const int64_t output = (first + v) * kLanes;
    from[v] = codes + output / CpuOrder::kStrip * 64 * order.bits + output % CpuOrder::kStrip * 4;
  }
  const int8_t* x[kTokens];
  for (int t = 0; t < kTokens; ++t) x[t] = tokens[t].limbs + span.block * 2 * CpuOrder::kBlock;
  Totals<kTokens> totals;
  for (auto& of_token : totals)
    for (VI& total : of_token) total = hn::Zero(DI());
  sum_span<kTokens>(order.bits, from, order.block_bytes(), span.blocks, x,
                    {codes + kAheadBytes, first == 0 ? order.block_bytes() / 64 : 0}, totals);

  const int64_t group = span.group * CpuOrder::kTile;
  const uint8_t* zeros = weights.zeros + group * order.zero_bytes();
  for (int64_t v = 0; v < kCount; ++v) {
    const int64_t output = (first + v) * kLanes;
    const VF scale = load_halves(weights.scales + group + output), zero = load_zeros(order, zeros, output);
    for (int t = 0; t < kTokens; ++t) {
      const VF inputs = hn::Set(d, tokens[t].sums[at_span]);
      const VF products = hn::Mul(hn::ConvertTo(d, totals[t][v]), hn::Set(d, tokens[t].steps[at_span]));
      float* to = y + t * CpuOrder::kTile + output;
      hn::StoreU(hn::MulAdd(scale, hn::NegMulAdd(zero, inputs, products), hn::LoadU(d, to)), d, to);
    }
  }
}

// A span for kTokens tokens. y: theirs.
template <int kTokens>
HWY_INLINE void add_tile(const CpuOrder& order, const Span& span, int64_t at_span, const TileWeights& weights,
                         const RoundedInputs* tokens, float* y) {
  for (int64_t first = 0; first < CpuOrder::kTile / kLanes; first += kVectors<kTokens>)
    add_span<kTokens>(order, span, at_span, weights, tokens, first, y);
}

void MultiplyTile(const CpuOrder& order, std::span<const Span> spans, const TileWeights& weights,
                  std::span<const RoundedInputs> tokens, float* y) {
  std::memset(y, 0, tokens.size() * CpuOrder::kTile * sizeof(float));
  for (size_t s = 0; s < spans.size(); ++s) {
    // Later tokens find the span's codes in the cache.
    const auto add = [&](auto count, size_t t) GRINQH_INLINE_ATTR {
      add_tile<decltype(count)::value>(order, spans[s], static_cast<int64_t>(s), weights, &tokens[t],
                                       y + t * CpuOrder::kTile);
    };
    size_t t = 0;
    for (; t + 4 <= tokens.size(); t += 4) add(std::integral_constant<int, 4>(), t);
    for (; t < tokens.size(); ++t) add(std::integral_constant<int, 1>(), t);
  }
}

}  // namespace grinqh::group_affine::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace grinqh::group_affine {

HWY_EXPORT(RoundInputs);
HWY_EXPORT(MultiplyTile);

void round_inputs(std::span<const Span> spans, const float* x, const float* columns, RoundedInputs to) {
  HWY_DYNAMIC_DISPATCH(RoundInputs)(spans, x, columns, to);
}

void multiply_tile(const CpuOrder& order, std::span<const Span> spans, const TileWeights& weights,
                   std::span<const RoundedInputs> tokens, float* y) {
  HWY_DYNAMIC_DISPATCH(MultiplyTile)(order, spans, weights, tokens, y);
}

}  // namespace grinqh::group_affine

#endif  // HWY_ONCE
