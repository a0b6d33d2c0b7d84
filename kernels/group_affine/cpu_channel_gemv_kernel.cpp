#include "kernels/group_affine/cpu_channel_gemv_kernel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/group_affine/cpu_channel_gemv_kernel.cpp"
#define HWY_WANT_AVX3_DL
#include <hwy/foreach_target.h>  // compiles what follows once for every instruction set
#include <hwy/highway.h>

#include "kernels/common/pair_products-inl.h"

HWY_BEFORE_NAMESPACE();
namespace grinqh::group_affine::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using namespace grinqh::HWY_NAMESPACE;

// Sums that are in registers at a time, of a line or of a part of it.
constexpr int kVectors = static_cast<int>(std::min<int64_t>(8, ChannelOrder::kLine / kLanes));
constexpr int64_t kPart = kVectors * kLanes;
// Channels between one that is multiplied and the one that is fetched meanwhile.
constexpr int64_t kAhead = 8;

HWY_INLINE VF load_bytes(const uint8_t* from) {
  const hn::Rebind<uint8_t, DI> db;
  return hn::ConvertTo(DF(), hn::PromoteTo(DI(), hn::LoadU(db, from)));
}

HWY_INLINE VF load_zeros(const SpanWeights& weights, int64_t output) {
  if (weights.kind == Zeros::bytes) return load_bytes(weights.zeros + output);
  if (weights.kind == Zeros::halves)
    return load_halves(reinterpret_cast<const uint16_t*>(weights.zeros) + output);
  return hn::Set(DF(), 128.0f);
}

// kTogether channels, so that an output's sum is loaded and stored once for all of them; the first ones of a
// span begin its sums and the last ones scale them. What comes after them is fetched ahead: the lines of
// later channels as they will be used, or where none is left out, memory as it lies.
template <int kTogether>
HWY_INLINE void add_some(const SpanWeights& weights, const int32_t* channels, int64_t following,
                         const float* x, float sum, bool first, bool last, float* sums, float* y) {
  const DF d;
  const uint8_t *from[kTogether], *ahead[kTogether];
  const bool all =
      following >= kAhead && channels[kTogether + kAhead - 1] - channels[0] == kTogether + kAhead - 1;
  for (int c = 0; c < kTogether; ++c) {
    from[c] = weights.channels + channels[c] * weights.width;
    ahead[c] = all ? from[0] + kAhead * weights.width + c * ChannelOrder::kLine
               : c + kAhead < kTogether + following ? weights.channels + channels[c + kAhead] * weights.width
                                                    : from[c];
  }
  const int64_t stride = all ? kTogether : 1;
  const VF minus_sum = hn::Set(d, -sum);
  for (int64_t output = 0; output < weights.width; output += kPart) {
    VF parts[kVectors];
    if (first)
      unrolled<kVectors>([&](auto v) GRINQH_INLINE_ATTR {
        parts[v()] = hn::Mul(load_zeros(weights, output + v() * kLanes), minus_sum);
      });
    else
      unrolled<kVectors>([&](auto v)
                             GRINQH_INLINE_ATTR { parts[v()] = hn::LoadU(d, sums + output + v() * kLanes); });
    unrolled<kTogether>([&](auto c) GRINQH_INLINE_ATTR {
      if (output % ChannelOrder::kLine == 0) __builtin_prefetch(ahead[c()] + output * stride);
      const VF input = hn::Set(d, x[c()]);
      const uint8_t* codes = from[c()] + output;
      unrolled<kVectors>([&](auto v) GRINQH_INLINE_ATTR {
        parts[v()] = hn::MulAdd(input, load_bytes(codes + v() * kLanes), parts[v()]);
      });
    });
    if (last)
      unrolled<kVectors>([&](auto v) GRINQH_INLINE_ATTR {
        const int64_t at = output + v() * kLanes;
        hn::StoreU(hn::MulAdd(load_halves(weights.scales + at), parts[v()], hn::LoadU(d, y + at)), d, y + at);
      });
    else
      unrolled<kVectors>([&](auto v)
                             GRINQH_INLINE_ATTR { hn::StoreU(parts[v()], d, sums + output + v() * kLanes); });
  }
}

void AddSpan(const SpanWeights& weights, const SpanInputs& inputs, float* y) {
  alignas(64) float sums[ChannelOrder::kTile];
  const int64_t count = std::ssize(inputs.channels);
  int64_t at = 0;
  const auto add = [&](auto together) GRINQH_INLINE_ATTR {
    constexpr int kTogether = decltype(together)::value;
    for (; count - at >= kTogether; at += kTogether)
      add_some<kTogether>(weights, inputs.channels.data() + at, count - at - kTogether + inputs.following,
                          inputs.x + at, inputs.sum, at == 0, at + kTogether == count, sums, y);
  };
  add(std::integral_constant<int, 8>());
  add(std::integral_constant<int, 4>());
  add(std::integral_constant<int, 2>());
  add(std::integral_constant<int, 1>());
}

}  // namespace grinqh::group_affine::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace grinqh::group_affine {

HWY_EXPORT(AddSpan);

void add_span(const SpanWeights& weights, const SpanInputs& inputs, float* y) {
  HWY_DYNAMIC_DISPATCH(AddSpan)(weights, inputs, y);
}

}  // namespace grinqh::group_affine

#endif  // HWY_ONCE
