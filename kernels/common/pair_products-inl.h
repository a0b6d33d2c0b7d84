// Sums of products of 16-bit integers in pairs, the arithmetic of the CPU's decoding kernels: a lane of 32
// bits holds two factors, so that a product of codes with inputs of 15 bits is exact and takes one
// instruction where there is VNNI. Lanes never meet: what is packed for 16 lanes serves vectors of any width.
//
// Included once for every instruction set, hence Highway's guard.
#if defined(GRINQH_PAIR_PRODUCTS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef GRINQH_PAIR_PRODUCTS_INL
#undef GRINQH_PAIR_PRODUCTS_INL
#else
#define GRINQH_PAIR_PRODUCTS_INL
#endif

#include <cstddef>
#include <cstdint>
#include <utility>

#include <hwy/highway.h>

// Highway 1.0 means AVX-512 VNNI by this target, and checks for it, but lets the compiler use the VEX form
// alone.
#if HWY_TARGET == HWY_AVX3_DL && HWY_MAJOR == 1 && HWY_MINOR == 0
#undef HWY_TARGET_STR
#define HWY_TARGET_STR \
  HWY_TARGET_STR_AVX3  \
  ",vpclmulqdq,avx512vbmi,avx512vbmi2,vaes,avxvnni,avx512vnni,avx512bitalg,avx512vpopcntdq"
#endif

HWY_BEFORE_NAMESPACE();
namespace grinqh::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DI = hn::CappedTag<int32_t, 16>;
using DF = hn::Rebind<float, DI>;
using VI = hn::Vec<DI>;
using VF = hn::Vec<DF>;
constexpr int64_t kLanes = hn::MaxLanes(DI());

// For lambdas that use vectors in registers: one that is called puts them into memory. Under sanitizers that
// does not matter, and instrumented code inlined whole takes the compiler a quarter of an hour; it would
// inline whatever is called once, unless told not to.
#ifndef GRINQH_INLINE_ATTR
#ifdef __SANITIZE_ADDRESS__
#define GRINQH_INLINE_ATTR HWY_ATTR __attribute__((noinline))
#else
#define GRINQH_INLINE_ATTR HWY_ATTR __attribute__((always_inline))
#endif
#endif

// Calls body(integral_constant 0), ..., so that loops over vectors in registers are unrolled for certain.
template <int kCount, class Body>
HWY_INLINE void unrolled(const Body& body) {
  [&]<int... kIndex>(std::integer_sequence<int, kIndex...>) GRINQH_INLINE_ATTR {
    (body(std::integral_constant<int, kIndex>()), ...);
  }
  (std::make_integer_sequence<int, kCount>());
}

// A pair that every lane meets.
HWY_INLINE VI pair_everywhere(const int32_t* pair) { return hn::Set(DI(), *pair); }

// `sum` as it was: sums that grow by one product after the other keep that order. Else g++ multiplies first
// and adds in pairs, for which registers do not suffice.
HWY_INLINE VI in_order(VI sum) {
#if HWY_TARGET == HWY_AVX3
  asm("" : "+v"(sum.raw));
#elif HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_SSE4 || HWY_TARGET == HWY_SSSE3
  asm("" : "+x"(sum.raw));
#endif
  return sum;
}

// sum + low(a) low(b) + high(a) high(b) in every lane.
HWY_INLINE VI add_pair_products(VI sum, VI a, VI b) {
#if HWY_TARGET == HWY_AVX3_DL
  return VI{_mm512_dpwssd_epi32(sum.raw, a.raw, b.raw)};
#elif HWY_TARGET == HWY_AVX3
  return in_order(hn::Add(sum, VI{_mm512_madd_epi16(a.raw, b.raw)}));
#elif HWY_TARGET == HWY_AVX2
  return in_order(hn::Add(sum, VI{_mm256_madd_epi16(a.raw, b.raw)}));
#elif HWY_TARGET == HWY_SSE4 || HWY_TARGET == HWY_SSSE3
  return in_order(hn::Add(sum, VI{_mm_madd_epi16(a.raw, b.raw)}));
#else
  const auto low = [](VI v) HWY_ATTR { return hn::ShiftRight<16>(hn::ShiftLeft<16>(v)); };
  const auto high = [](VI v) HWY_ATTR { return hn::ShiftRight<16>(v); };
  return hn::Add(hn::Add(sum, hn::Mul(low(a), low(b))), hn::Mul(high(a), high(b)));
#endif
}

// Logical shift; what crosses from the high half into the low one is the caller's to mask.
template <int kBits>
HWY_INLINE VI shift_right(VI v) {
  if constexpr (kBits == 0) return v;
  const hn::Rebind<uint32_t, DI> du;
  return hn::BitCast(DI(), hn::ShiftRight<kBits>(hn::BitCast(du, v)));
}
template <int kBits>
HWY_INLINE VI shift_left(VI v) {
  if constexpr (kBits == 0) return v;
  return hn::ShiftLeft<kBits>(v);
}

// Bits of `yes` where the mask is set, of `no` elsewhere.
HWY_INLINE VI select_bits(VI mask, VI yes, VI no) {
#if HWY_TARGET == HWY_AVX3_DL || HWY_TARGET == HWY_AVX3
  return VI{_mm512_ternarylogic_epi32(no.raw, yes.raw, mask.raw, 0xD8)};
#else
  return hn::Or(hn::And(mask, yes), hn::AndNot(mask, no));
#endif
}

// The same `bits` lowest bits of both halves.
HWY_INLINE VI both_halves(uint32_t bits) { return hn::Set(DI(), static_cast<int32_t>(bits * 0x10001u)); }

// kLanes float16 values.
HWY_INLINE VF load_halves(const uint16_t* from) {
  const hn::Rebind<hwy::float16_t, DI> dh;
  return hn::PromoteTo(DF(), hn::LoadU(dh, reinterpret_cast<const hwy::float16_t*>(from)));
}

// Greatest |x|, NaN or infinite if one of them is: as integers, magnitudes keep their order.
HWY_INLINE VI magnitude_bits(VF x) { return hn::BitCast(DI(), hn::Abs(x)); }
HWY_INLINE float greatest(VI magnitudes) {
  return hn::GetLane(hn::BitCast(DF(), hn::MaxOfLanes(DI(), magnitudes)));
}

// What turns values of at most this magnitude into integers up to `limit` and back; both 0 for values so
// small that nothing of them would show. A greatest magnitude that is no number makes `step` none either.
struct Step {
  float step, inverse;
  Step(float magnitude, float limit)
      : step(magnitude < 1e-30f ? 0.0f : magnitude / limit),
        inverse(magnitude < 1e-30f ? 0.0f : limit / magnitude) {}
};

// Integers nearest to x times a step's inverse. What is no number becomes 0, so that sums of integers do not
// overflow; the step, which is none either, shows it.
HWY_INLINE VI whole_steps(VF x, VF inverse) {
  const VF steps = hn::Mul(x, inverse);
  return hn::NearestInt(hn::IfThenElseZero(hn::Eq(steps, steps), steps));
}

}  // namespace grinqh::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // the guard of this instruction set
