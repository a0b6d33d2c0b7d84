#include "kernels/aligned_2_4_16/cpu_gemv_kernel.h"

#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/aligned_2_4_16/cpu_gemv_kernel.cpp"
#define HWY_WANT_AVX3_DL
#include <hwy/foreach_target.h>  // compiles what follows once for every instruction set
#include <hwy/highway.h>

#include "kernels/common/outlier_products-inl.h"
#include "kernels/common/quad_products-inl.h"

HWY_BEFORE_NAMESPACE();
namespace grinqh::aligned_2_4_16::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using namespace grinqh::HWY_NAMESPACE;

constexpr int64_t kGroups = CpuOrder::kBlockGroups, kLine = CpuOrder::kLine;
// Vectors of outputs that meet the same inputs together.
constexpr int kTogether = kLanes < CpuOrder::kTile ? 2 : 1;

// kLanes bytes as integers.
HWY_INLINE VI load_bytes(const uint8_t* from) {
  return hn::PromoteTo(DI(), hn::LoadU(hn::Rebind<uint8_t, DI>(), from));
}

// What a block's codes, scales and zeros are, each kind of block by its own; lane: the first of the vector.
struct Narrow {
  static constexpr int64_t kBytes = CpuOrder::kNarrowBytes;
  static constexpr int kLines = 1, kBits = 2;

  static HWY_INLINE VF zero(const uint8_t* block, int64_t group, int64_t lane) {
    const VI first = load_bytes(block + CpuOrder::kFirst + group * CpuOrder::kTile + lane);
    return hn::ConvertTo(DF(), hn::And(first, hn::Set(DI(), 15)));
  }
  static HWY_INLINE VF scale(const uint8_t* block, int64_t group, int64_t lane) {
    const VI first = load_bytes(block + CpuOrder::kFirst + group * CpuOrder::kTile + lane);
    float second[2];
    std::memcpy(second, block + CpuOrder::kSecond + group * 8, 8);
    return hn::MulAdd(hn::ConvertTo(DF(), shift_right<4>(first)), hn::Set(DF(), second[0]),
                      hn::Set(DF(), second[1]));
  }
};

struct Wide {
  static constexpr int64_t kBytes = CpuOrder::kWideBytes;
  static constexpr int kLines = 2, kBits = 4;

  static HWY_INLINE VF zero(const uint8_t* block, int64_t group, int64_t lane) {
    return hn::ConvertTo(DF(), load_bytes(block + CpuOrder::kZeros + group * CpuOrder::kTile + lane));
  }
  static HWY_INLINE VF scale(const uint8_t* block, int64_t group, int64_t lane) {
    const uint8_t* scales = block + CpuOrder::kScales + (group * CpuOrder::kTile + lane) * 2;
    return load_halves(reinterpret_cast<const uint16_t*>(scales));
  }
};

// Products of one block with kTogether vectors of outputs from `lane` on.
template <class Kind>
HWY_INLINE void add_block(const uint8_t* block, QuadInputs inputs, const float* sums, VF step, int64_t lane,
                          VF* y) {
  constexpr int kFields = 8 / Kind::kBits;
  const DF d;
  VF of_block[kTogether];
  for (VF& sum : of_block) sum = hn::Zero(d);
  // What a core fetches by itself comes late: a block's parts are read beside each other.
  constexpr int64_t kAhead = 4 * Kind::kBytes, kShare = Kind::kBytes / kGroups;
  for (int64_t g = 0; g < kGroups; ++g) {
    for (int64_t at = 0; at < kShare; at += 44) __builtin_prefetch(block + kAhead + g * kShare + at);
    QuadSums products[kTogether];
    unrolled<Kind::kLines>([&](auto line) HWY_ATTR {
      VI codes[kTogether];
      for (int v = 0; v < kTogether; ++v)
        codes[v] =
            hn::LoadU(DI(), reinterpret_cast<const int32_t*>(block + (g * Kind::kLines + line()) * kLine) +
                                lane + v * kLanes);
      unrolled<kFields>([&](auto field) HWY_ATTR {
        const int64_t quad = g * 4 + line() * kFields + field();
        const VI upper = inputs.upper_quad(quad), lower = inputs.lower_quad(quad);
        for (int v = 0; v < kTogether; ++v)
          products[v].add(byte_fields<Kind::kBits, decltype(field)::value>(codes[v]), upper, lower);
      });
    });
    const VF sum = hn::Set(d, sums[g]);
    for (int v = 0; v < kTogether; ++v) {
      const int64_t first = lane + v * kLanes;
      const VF less = hn::NegMulAdd(Kind::zero(block, g, first), sum, hn::ConvertTo(d, products[v].total()));
      of_block[v] = hn::MulAdd(Kind::scale(block, g, first), less, of_block[v]);
    }
  }
  for (int v = 0; v < kTogether; ++v) y[v] = hn::MulAdd(step, of_block[v], y[v]);
}

void RoundBlock(const float* x, int64_t block, RoundedInputs to) {
  const Step step(greatest_of(x, CpuOrder::kBlock), kQuadLimit);
  for (int64_t g = 0; g < kGroups; ++g) {
    const int64_t at = block * CpuOrder::kBlock + g * CpuOrder::kGroup;
    to.sums[block * kGroups + g] = static_cast<float>(round_quads(
        x + g * CpuOrder::kGroup, CpuOrder::kGroup, CpuOrder::kGroup, step, to.upper + at, to.lower + at));
  }
  to.steps[block] = step.step;
}

void MultiplyTile(const CpuOrder& order, const TileWeights& weights, const RoundedInputs& inputs,
                  const float* x, float* y) {
  const DF d;
  const QuadInputs quads{inputs.upper, inputs.lower};
  for (int64_t lane = 0; lane < CpuOrder::kTile; lane += kTogether * kLanes) {
    VF sums[kTogether];
    for (VF& sum : sums) sum = hn::Zero(d);
    const uint8_t* from = weights.blocks;
    const auto add = [&](auto kind, int64_t begin, int64_t end) HWY_ATTR {
      using Kind = decltype(kind);
      for (int64_t b = begin; b < end; ++b, from += Kind::kBytes)
        add_block<Kind>(from, quads.from(b * CpuOrder::kBlock), inputs.sums + b * kGroups,
                        hn::Set(d, inputs.steps[b]), lane, sums);
    };
    add(Narrow(), 0, order.narrow_blocks());
    add(Wide(), order.narrow_blocks(), order.blocks());
    for (int v = 0; v < kTogether; ++v) hn::StoreU(sums[v], d, y + lane + v * kLanes);
  }
  if (weights.outliers.begin)
    for (int64_t row = 0; row < weights.outputs; ++row)
      y[row] += outlier_products(weights.outliers, row, x, [](uint32_t) { return 0.0f; });
}

}  // namespace grinqh::aligned_2_4_16::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace grinqh::aligned_2_4_16 {

HWY_EXPORT(RoundBlock);
HWY_EXPORT(MultiplyTile);

void round_block(const float* x, int64_t block, RoundedInputs to) {
  HWY_DYNAMIC_DISPATCH(RoundBlock)(x, block, to);
}

void multiply_tile(const CpuOrder& order, const TileWeights& weights, const RoundedInputs& inputs,
                   const float* x, float* y) {
  HWY_DYNAMIC_DISPATCH(MultiplyTile)(order, weights, inputs, x, y);
}

}  // namespace grinqh::aligned_2_4_16

#endif  // HWY_ONCE
