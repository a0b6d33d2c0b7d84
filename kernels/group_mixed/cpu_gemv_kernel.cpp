#include "kernels/group_mixed/cpu_gemv_kernel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/group_mixed/cpu_gemv_kernel.cpp"
#define HWY_WANT_AVX3_DL
#include <hwy/foreach_target.h>  // compiles what follows once for every instruction set
#include <hwy/highway.h>

#include "kernels/common/quad_products-inl.h"

HWY_BEFORE_NAMESPACE();
namespace grinqh::group_mixed::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using namespace grinqh::HWY_NAMESPACE;

constexpr int64_t kTile = CpuOrder::kTile, kBlock = CpuOrder::kBlock, kLine = CpuOrder::kLine;
// Vectors of outputs that meet the same inputs together.
constexpr int kTogether = kLanes < kTile ? 2 : 1;

void RoundSpan(std::span<const Span> spans, int64_t at_span, const float* x, RoundedInputs to) {
  const Span& span = spans[static_cast<size_t>(at_span)];
  const Step step(greatest_of(x + span.input, span.inputs), kQuadLimit);
  const int32_t sum = round_quads(x + span.input, span.inputs, span.blocks * kBlock, step, to.upper + span.at,
                                  to.lower + span.at);
  to.steps[at_span] = step.step;
  to.sums[at_span] = step.step * static_cast<float>(sum);
}

// Calls body(quad, v, codes) for the eight quads of a block in a part of kWidth bits, vector after vector.
// from: the part's first line, from the first vector's lanes on.
template <int kWidth, class Body>
HWY_INLINE void for_quads(const uint8_t* from, const Body& body) {
  const auto line = [&](int64_t at, int64_t v) HWY_ATTR {
    return hn::LoadU(DI(), reinterpret_cast<const int32_t*>(from + at * kLine) + v * kLanes);
  };
  if constexpr (kWidth == 3) {
    // The upper bits of two quads are put above their lower ones at once.
    const VI at_third = all_bytes(0x44), at_digits = all_bytes(0x33), code = all_bytes(7);
    const auto both = [&](auto quad) HWY_ATTR {
      constexpr int kQuad = decltype(quad)::value, kUp = 2 - CpuOrder::third_bit(kQuad);
      VI codes[kTogether];
      for (int v = 0; v < kTogether; ++v) {
        const VI digits = shift_right<kQuad % 4 * 2>(line(kQuad / 4, v)), third = line(2, v);
        const VI upper =
            kUp < 0 ? shift_right<std::max(-kUp, 0)>(third) : shift_left<std::max(kUp, 0)>(third);
        codes[v] = hn::Or(hn::And(digits, at_digits), hn::And(upper, at_third));
      }
      const std::integral_constant<int, kQuad + 2> other;
      for (int v = 0; v < kTogether; ++v) body(quad, v, hn::And(codes[v], code));
      for (int v = 0; v < kTogether; ++v) body(other, v, hn::And(shift_right<4>(codes[v]), code));
    };
    both(std::integral_constant<int, 0>());
    both(std::integral_constant<int, 1>());
    both(std::integral_constant<int, 4>());
    both(std::integral_constant<int, 5>());
  } else {
    constexpr int kFields = 8 / kWidth;
    unrolled<kWidth>([&](auto at) HWY_ATTR {
      VI fields[kTogether];
      for (int v = 0; v < kTogether; ++v) fields[v] = line(at(), v);
      unrolled<kFields>([&](auto field) HWY_ATTR {
        constexpr int kField = decltype(field)::value;
        const std::integral_constant<int, decltype(at)::value * kFields + kField> quad;
        for (int v = 0; v < kTogether; ++v) body(quad, v, byte_fields<kWidth, kField>(fields[v]));
      });
    });
  }
}

// Adds the products of a part of kWidth bits of some blocks. No part of a caller: so what is called in here
// is called once, and g++ inlines it.
template <int kWidth>
HWY_NOINLINE void sum_part(const uint8_t* from, int64_t stride, int64_t blocks, QuadInputs inputs, VI* sums) {
  for (int64_t b = 0; b < blocks; ++b, from += stride, inputs = inputs.from(kBlock)) {
    constexpr int64_t kAhead = 2048;
    for (int64_t line = 0; line < kWidth; ++line) __builtin_prefetch(from + kAhead + line * kLine);
    QuadSums products[kTogether];
    for_quads<kWidth>(from, [&](auto quad, int v, VI codes) HWY_ATTR {
      products[v].add(codes, inputs.upper_quad(quad()), inputs.lower_quad(quad()));
    });
    for (int v = 0; v < kTogether; ++v) sums[v] = hn::Add(sums[v], products[v].total());
  }
}

HWY_INLINE void sum_part(int width, const uint8_t* from, int64_t stride, int64_t blocks, QuadInputs inputs,
                         VI* sums) {
  switch (width) {
    case 1:
      return sum_part<1>(from, stride, blocks, inputs, sums);
    case 2:
      return sum_part<2>(from, stride, blocks, inputs, sums);
    case 3:
      return sum_part<3>(from, stride, blocks, inputs, sums);
    default:
      return sum_part<4>(from, stride, blocks, inputs, sums);
  }
}

// Sums of a span's codes times inputs. from: its first block, from the first vector's lanes on.
HWY_INLINE void sum_span(const Span& span, const uint8_t* from, QuadInputs inputs, VI* sums) {
  const int64_t stride = span.width * kLine;
  for (int v = 0; v < kTogether; ++v) sums[v] = hn::Zero(DI());
  const int upper = std::max(span.width - 4, 0);
  if (upper > 0) {
    sum_part(upper, from, stride, span.blocks, inputs, sums);
    for (int v = 0; v < kTogether; ++v) sums[v] = hn::ShiftLeft<4>(sums[v]);
  }
  sum_part(span.width - upper, from + upper * kLine, stride, span.blocks, inputs, sums);
}

void MultiplyTile(std::span<const Span> spans, const TileWeights& weights, const RoundedInputs& inputs,
                  float* y) {
  const DF d;
  for (int64_t first = 0; first < kTile; first += kTogether * kLanes) {
    VF outputs[kTogether];
    for (VF& output : outputs) output = hn::Zero(d);
    for (size_t s = 0; s < spans.size(); ++s) {
      const Span& span = spans[s];
      VI sums[kTogether];
      sum_span(span, weights.codes + span.codes + first * 4,
               QuadInputs{inputs.upper, inputs.lower}.from(span.at), sums);
      const VF step = hn::Set(d, inputs.steps[s]), of_inputs = hn::Set(d, inputs.sums[s]);
      for (int v = 0; v < kTogether; ++v) {
        const int64_t lane = first + v * kLanes;
        const VF scale = load_halves(weights.scales + span.group * kTile + lane);
        const VF products = hn::Mul(hn::ConvertTo(d, sums[v]), step);
        if (span.width == 1) {
          // mean + scale (2 code - 1)
          const VF mean = load_halves(weights.means + span.place * kTile + lane);
          const VF twice = hn::Sub(hn::Add(products, products), of_inputs);
          outputs[v] = hn::MulAdd(mean, of_inputs, hn::MulAdd(scale, twice, outputs[v]));
        } else {
          const hn::Rebind<uint8_t, DI> db;
          const auto zeros = hn::LoadU(db, weights.zeros + span.place * kTile + lane);
          const VF zero = hn::ConvertTo(d, hn::PromoteTo(DI(), zeros));
          outputs[v] = hn::MulAdd(scale, hn::NegMulAdd(zero, of_inputs, products), outputs[v]);
        }
      }
    }
    for (int v = 0; v < kTogether; ++v) hn::StoreU(outputs[v], d, y + first + v * kLanes);
  }
}

}  // namespace grinqh::group_mixed::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace grinqh::group_mixed {

HWY_EXPORT(RoundSpan);
HWY_EXPORT(MultiplyTile);

void round_span(std::span<const Span> spans, int64_t at_span, const float* x, RoundedInputs to) {
  HWY_DYNAMIC_DISPATCH(RoundSpan)(spans, at_span, x, to);
}

void multiply_tile(std::span<const Span> spans, const TileWeights& weights, const RoundedInputs& inputs,
                   float* y) {
  HWY_DYNAMIC_DISPATCH(MultiplyTile)(spans, weights, inputs, y);
}

}  // namespace grinqh::group_mixed

#endif  // HWY_ONCE
