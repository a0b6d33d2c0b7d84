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

// Fetches channels ahead of their use, each from its first line to its last.
class Ahead {
 public:
  Ahead(const TileWeights& weights, std::span<const int32_t> channels) : weights_(weights), rest_(channels) {}

  HWY_INLINE void fetch(int lines) {
    for (int i = 0; i < lines && !rest_.empty(); ++i) {
      __builtin_prefetch(weights_.channels + rest_.front() * weights_.width + output_);
      output_ += CpuOrder::kLine;
      if (output_ < weights_.width) continue;
      output_ = 0;
      rest_ = rest_.subspan(1);
    }
  }

 private:
  const TileWeights& weights_;
  std::span<const int32_t> rest_;
  int64_t output_ = 0;
};

// kTogether channels, so that an output's sum is loaded and stored once for all of them.
template <int kTogether, bool kBf16>
HWY_INLINE void add_some(const TileWeights& weights, const int32_t* channels, const float* x, Ahead& ahead,
                         float* y) {
  constexpr int kVectors = static_cast<int>(CpuOrder::kLine / kLanes);
  const DF d;
  const uint16_t* from[kTogether];
  for (int c = 0; c < kTogether; ++c) from[c] = weights.channels + channels[c] * weights.width;
  for (int64_t output = 0; output < weights.width; output += CpuOrder::kLine) {
    ahead.fetch(kTogether);
    VF sums[kVectors];
    for (int v = 0; v < kVectors; ++v) sums[v] = hn::LoadU(d, y + output + v * kLanes);
    unrolled<kTogether>([&](auto c) HWY_ATTR {
      const VF input = hn::Set(d, x[c()]);
      for_line<kBf16>(from[c()] + output,
                      [&](auto v, VF w) HWY_ATTR { sums[v()] = hn::MulAdd(input, w, sums[v()]); });
    });
    for (int v = 0; v < kVectors; ++v) hn::StoreU(sums[v], d, y + output + v * kLanes);
  }
}

template <bool kBf16>
void add_all(const TileWeights& weights, const ChannelInputs& inputs, float* y) {
  constexpr size_t kMost = 8;
  std::span<const int32_t> rest = inputs.channels;
  const float* x = inputs.x;
  Ahead ahead(weights, rest.subspan(std::min(kMost, rest.size())));
  const auto add = [&](auto count) HWY_ATTR {
    constexpr int kTogether = decltype(count)::value;
    for (; rest.size() >= kTogether; rest = rest.subspan(kTogether), x += kTogether)
      add_some<kTogether, kBf16>(weights, rest.data(), x, ahead, y);
  };
  add(std::integral_constant<int, kMost>());
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
