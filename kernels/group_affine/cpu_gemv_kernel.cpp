#include "kernels/group_affine/cpu_gemv_kernel.h"

#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/group_affine/cpu_gemv_kernel.cpp"
#define HWY_WANT_AVX3_DL
#include <hwy/foreach_target.h>  // compiles what follows once for every instruction set
#include <hwy/highway.h>

#include "kernels/common/pair_products-inl.h"

HWY_BEFORE_NAMESPACE();
namespace grinqh::group_affine::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using namespace grinqh::HWY_NAMESPACE;

// Vectors of outputs that are summed together: with fewer, additions would wait for each other.
constexpr int64_t kTogether = 2;
constexpr float kLimit = 32767;

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
  const auto at = [&](const Span& span, int64_t i) HWY_ATTR {
    return load_inputs(x + span.input + i, columns ? columns + span.input + i : nullptr, span.inputs - i);
  };
  for (const Span& span : spans) {
    VI most = hn::Zero(di);
    for (int64_t i = 0; i < span.inputs; i += kLanes) most = hn::Max(most, magnitude_bits(at(span, i)));
    const Step step(greatest(most), kLimit);
    const VF inverse = hn::Set(DF(), step.inverse);
    const VI low_half = hn::Set(di, 0xffff);
    VI sum = hn::Zero(di);
    for (int64_t b = 0; b < span.blocks; ++b) {
      int32_t* pairs = to.pairs + (span.block + b) * CpuOrder::kStrip;
      for (int64_t lane = 0; lane < CpuOrder::kStrip; lane += kLanes) {
        const int64_t i = b * CpuOrder::kBlock + lane;
        const VI low = hn::NearestInt(hn::Mul(at(span, i), inverse));
        const VI high = hn::NearestInt(hn::Mul(at(span, i + CpuOrder::kStrip), inverse));
        sum = hn::Add(sum, hn::Add(low, high));
        hn::StoreU(select_bits(low_half, low, hn::ShiftLeft<16>(high)), di, pairs + lane);
      }
    }
    const auto at_span = &span - spans.data();
    to.steps[at_span] = step.step;
    to.sums[at_span] = step.step * static_cast<float>(hn::GetLane(hn::SumOfLanes(di, sum)));
  }
}

// Calls body(p, codes) for the 16 pairs of a block, in a part of kWidth bits. from: where the part's first 64
// bytes have this vector's lanes.
template <int kWidth, class Body>
HWY_INLINE void for_pairs(const uint8_t* from, const Body& body) {
  const DI di;
  const auto load = [&](int chunk) HWY_ATTR {
    return hn::LoadU(di, reinterpret_cast<const int32_t*>(from + 64 * chunk));
  };
  const VI mask = both_halves((1u << kWidth) - 1);
  constexpr int kFields = kWidth == 3 ? 5 : 16 / kWidth;
  VI last = hn::Zero(di);  // the 16th code of 3 bits
  unrolled<kWidth>([&](auto chunk) HWY_ATTR {
    const VI word = load(chunk());
    unrolled<kFields>([&](auto field) HWY_ATTR {
      constexpr int kPair = decltype(chunk)::value * kFields + decltype(field)::value;
      body(std::integral_constant<int, kPair>(),
           hn::And(shift_right<decltype(field)::value * kWidth>(word), mask));
    });
    if constexpr (kWidth == 3)
      last = select_bits(both_halves(1u << chunk()), shift_right<15 - decltype(chunk)::value>(word), last);
  });
  if constexpr (kWidth == 3) body(std::integral_constant<int, 15>(), last);
}

// Sums that one pass keeps in registers: several of the same output where tokens are few, as an addition must
// not wait for the one before.
template <int kTokens>
struct Sums {
  static constexpr int kSplit = 4 / kTokens;
  VI of[kTokens][kTogether][kSplit];
};

// Adds kWidth bits of the codes of some blocks, their products with each token's pairs.
template <int kTokens, int kWidth>
HWY_INLINE void add_part(const uint8_t* const* from, int64_t stride, int64_t blocks, const int32_t* const* x,
                         Sums<kTokens>& sums) {
  for (int64_t b = 0; b < blocks; ++b)
    unrolled<kTogether>([&](auto v) HWY_ATTR {
      for_pairs<kWidth>(from[v()] + b * stride, [&](auto pair, VI codes) HWY_ATTR {
        unrolled<kTokens>([&](auto t) HWY_ATTR {
          VI& sum = sums.of[t()][v()][pair() % Sums<kTokens>::kSplit];
          sum = add_pair_products(sum, codes, pair_everywhere(x[t()] + b * 16 + pair()));
        });
      });
    });
}

// Sums of codes times inputs of a span. from: the span's first block.
template <int kTokens>
HWY_INLINE void sum_span(int bits, const uint8_t* const* from, int64_t stride, int64_t blocks,
                         const int32_t* const* x, Sums<kTokens>& sums) {
  const uint8_t* lower[kTogether];
  for (int64_t v = 0; v < kTogether; ++v) lower[v] = from[v] + 64 * (bits - 4);
  const auto add_lower = [&] HWY_ATTR {
    for (auto& of_token : sums.of)
      for (auto& of_vector : of_token)
        for (VI& sum : of_vector) sum = hn::ShiftLeft<4>(sum);
    add_part<kTokens, 4>(lower, stride, blocks, x, sums);
  };
  switch (bits) {
    case 2:
      return add_part<kTokens, 2>(from, stride, blocks, x, sums);
    case 3:
      return add_part<kTokens, 3>(from, stride, blocks, x, sums);
    case 4:
      return add_part<kTokens, 4>(from, stride, blocks, x, sums);
    case 5:
      add_part<kTokens, 1>(from, stride, blocks, x, sums);
      return add_lower();
    case 6:
      add_part<kTokens, 2>(from, stride, blocks, x, sums);
      return add_lower();
    case 7:
      add_part<kTokens, 3>(from, stride, blocks, x, sums);
      return add_lower();
    default:
      return add_part<kTokens, 8>(from, stride, blocks, x, sums);
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
  const uint8_t* from[kTogether];
  for (int64_t v = 0; v < kTogether; ++v) {
    const int64_t output = (first + v) * kLanes;
    from[v] = weights.codes + span.block * order.block_bytes() + output / CpuOrder::kStrip * 64 * order.bits +
              output % CpuOrder::kStrip * 4;
  }
  const int32_t* x[kTokens];
  for (int t = 0; t < kTokens; ++t) x[t] = tokens[t].pairs + span.block * 16;
  Sums<kTokens> sums;
  for (auto& of_token : sums.of)
    for (auto& of_vector : of_token)
      for (VI& sum : of_vector) sum = hn::Zero(DI());
  sum_span<kTokens>(order.bits, from, order.block_bytes(), span.blocks, x, sums);

  const int64_t group = span.group * CpuOrder::kTile;
  const uint8_t* zeros = weights.zeros + group * order.zero_bytes();
  for (int64_t v = 0; v < kTogether; ++v) {
    const int64_t output = (first + v) * kLanes;
    const VF scale = load_halves(weights.scales + group + output), zero = load_zeros(order, zeros, output);
    for (int t = 0; t < kTokens; ++t) {
      VI sum = sums.of[t][v][0];
      for (int s = 1; s < Sums<kTokens>::kSplit; ++s) sum = hn::Add(sum, sums.of[t][v][s]);
      const VF inputs = hn::Set(d, tokens[t].sums[at_span]);
      const VF products = hn::Mul(hn::ConvertTo(d, sum), hn::Set(d, tokens[t].steps[at_span]));
      float* to = y + t * CpuOrder::kTile + output;
      hn::StoreU(hn::MulAdd(scale, hn::NegMulAdd(zero, inputs, products), hn::LoadU(d, to)), d, to);
    }
  }
}

void MultiplyTile(const CpuOrder& order, std::span<const Span> spans, const TileWeights& weights,
                  std::span<const RoundedInputs> tokens, float* y) {
  std::memset(y, 0, tokens.size() * CpuOrder::kTile * sizeof(float));
  for (size_t s = 0; s < spans.size(); ++s)
    for (int64_t first = 0; first < CpuOrder::kTile / kLanes; first += kTogether) {
      // Later tokens find the span's codes in the cache.
      const auto add = [&](auto count, size_t t) HWY_ATTR {
        add_span<decltype(count)::value>(order, spans[s], static_cast<int64_t>(s), weights, &tokens[t], first,
                                         y + t * CpuOrder::kTile);
      };
      size_t t = 0;
      for (; t + 4 <= tokens.size(); t += 4) add(std::integral_constant<int, 4>(), t);
      for (; t + 2 <= tokens.size(); t += 2) add(std::integral_constant<int, 2>(), t);
      if (t < tokens.size()) add(std::integral_constant<int, 1>(), t);
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
