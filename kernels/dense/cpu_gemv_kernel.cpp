#include "kernels/dense/cpu_gemv_kernel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/dense/cpu_gemv_kernel.cpp"
#define HWY_WANT_AVX3_DL
#include <hwy/foreach_target.h>  // compiles what follows once for every instruction set
#include <hwy/highway.h>

#include "kernels/common/pair_products-inl.h"
#include "kernels/dense/cpu_order.h"

HWY_BEFORE_NAMESPACE();
namespace grinqh::dense::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using namespace grinqh::HWY_NAMESPACE;

// Calls body(output, weights) for the vectors of a line's 32 outputs.
template <bool kBf16, class Body>
HWY_INLINE void for_line(const uint16_t* line, const Body& body) {
  constexpr int kVectors = static_cast<int>(CpuOrder::kLine / kLanes);
  if constexpr (kBf16) {
    unrolled<kVectors / 2>([&](auto v) HWY_ATTR {
      const VI both = hn::LoadU(DI(), reinterpret_cast<const int32_t*>(line) + v() * kLanes);
      const VI high = hn::Set(DI(), static_cast<int32_t>(0xffff0000u));
      body(v, hn::BitCast(DF(), hn::ShiftLeft<16>(both)));
      body(std::integral_constant<int, v() + kVectors / 2>(), hn::BitCast(DF(), hn::And(both, high)));
    });
  } else {
    unrolled<kVectors>([&](auto v) HWY_ATTR { body(v, load_halves(line + v() * kLanes)); });
  }
}

// kTogether channels, so that an output's sum is loaded and stored once for all of them. What comes after
// them is fetched ahead: the lines of `next` as they will be used, or if all channels are read, memory as it
// lies.
template <int kTogether, bool kBf16>
HWY_INLINE void add_some(const TileWeights& weights, const int32_t* channels, const float* x,
                         std::span<const int32_t> next, bool all, float* y) {
  constexpr int kVectors = static_cast<int>(CpuOrder::kLine / kLanes);
  const DF d;
  const uint16_t *from[kTogether], *ahead[kTogether];
  for (int c = 0; c < kTogether; ++c) {
    const auto at = static_cast<size_t>(c);
    from[c] = weights.channels + channels[c] * weights.width;
    ahead[c] = all                ? from[0] + kTogether * weights.width + c * CpuOrder::kLine
               : at < next.size() ? weights.channels + next[at] * weights.width
                                  : from[c];
  }
  const int64_t stride = all ? kTogether : 1;
  for (int64_t output = 0; output < weights.width; output += CpuOrder::kLine) {
    VF sums[kVectors];
    for (int v = 0; v < kVectors; ++v) sums[v] = hn::LoadU(d, y + output + v * kLanes);
    unrolled<kTogether>([&](auto c) HWY_ATTR {
      __builtin_prefetch(ahead[c()] + output * stride);
      const VF input = hn::Set(d, x[c()]);
      for_line<kBf16>(from[c()] + output,
                      [&](auto v, VF w) HWY_ATTR { sums[v()] = hn::MulAdd(input, w, sums[v()]); });
    });
    for (int v = 0; v < kVectors; ++v) hn::StoreU(sums[v], d, y + output + v * kLanes);
  }
}

template <bool kBf16>
void add_all(const TileWeights& weights, const ChannelInputs& inputs, float* y) {
  std::span<const int32_t> rest = inputs.channels;
  const float* x = inputs.x;
  const bool all = !rest.empty() && rest.back() - rest.front() + 1 == std::ssize(rest);
  const auto add = [&](auto count) HWY_ATTR {
    constexpr int kTogether = decltype(count)::value;
    for (; rest.size() >= kTogether; x += kTogether) {
      const int32_t* channels = rest.data();
      rest = rest.subspan(kTogether);
      add_some<kTogether, kBf16>(weights, channels, x, rest, all, y);
    }
  };
  add(std::integral_constant<int, 8>());
  add(std::integral_constant<int, 2>());
  add(std::integral_constant<int, 1>());
}

void AddChannels(const TileWeights& weights, const ChannelInputs& inputs, float* y) {
  if (weights.bf16)
    add_all<true>(weights, inputs, y);
  else
    add_all<false>(weights, inputs, y);
}

}  // namespace grinqh::dense::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace grinqh::dense {

HWY_EXPORT(AddChannels);

void add_channels(const TileWeights& weights, const ChannelInputs& inputs, float* y) {
  HWY_DYNAMIC_DISPATCH(AddChannels)(weights, inputs, y);
}

}  // namespace grinqh::dense

#endif  // HWY_ONCE
