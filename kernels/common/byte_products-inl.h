// Sums of products of codes and inputs, four in every lane of 32 bits: codes are unsigned bytes, inputs
// integers of 15 bits whose two limbs are signed bytes. Lanes never meet, as in pair_products-inl.h; but
// bytes hold twice the codes that pairs do, so that half as many instructions take them out of where they are
// packed.
#if defined(GRINQH_BYTE_PRODUCTS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef GRINQH_BYTE_PRODUCTS_INL
#undef GRINQH_BYTE_PRODUCTS_INL
#else
#define GRINQH_BYTE_PRODUCTS_INL
#endif

#include "kernels/common/pair_products-inl.h"

HWY_BEFORE_NAMESPACE();
namespace grinqh::HWY_NAMESPACE {

// x = 128 high + low, -64 <= low < 64; as both must be signed bytes, |x| <= kGreatestLimbs.
constexpr int kLimbBits = 7;
constexpr float kGreatestLimbs = 127 << kLimbBits;

struct Limbs {
  VI high, low;
};
HWY_INLINE Limbs limbs_of(VI x) {
  const VI high = hn::ShiftRight<kLimbBits>(hn::Add(x, hn::Set(DI(), 1 << (kLimbBits - 1))));
  return {high, hn::Sub(x, hn::ShiftLeft<kLimbBits>(high))};
}

// The same `bits` in each byte.
HWY_INLINE VI every_byte(uint32_t bits) { return hn::Set(DI(), static_cast<int32_t>(bits * 0x1010101u)); }

// Where bytes are multiplied with sums of 16 bits, these have to be taken away before they overflow, and
// codes of more than 4 bits come in two parts.
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_SSE4 || HWY_TARGET == HWY_SSSE3
constexpr bool kNarrowSums = true;
#else
constexpr bool kNarrowSums = false;
#endif

// How many times codes up to this one may be added to sums before they are taken.
constexpr int64_t most_additions(int greatest_code) {
  return kNarrowSums ? 32767 / (2 * 127 * greatest_code) : int64_t{1} << 20;
}

// sum + the products of a lane's bytes; sums of two products and 16 bits where they are narrow.
HWY_INLINE VI add_byte_products(VI sum, VI codes, VI x) {
#if HWY_TARGET == HWY_AVX3_DL
  return VI{_mm512_dpbusd_epi32(sum.raw, codes.raw, x.raw)};
#elif HWY_TARGET == HWY_AVX3
  return in_order(VI{_mm512_add_epi16(sum.raw, _mm512_maddubs_epi16(codes.raw, x.raw))});
#elif HWY_TARGET == HWY_AVX2
  return in_order(VI{_mm256_add_epi16(sum.raw, _mm256_maddubs_epi16(codes.raw, x.raw))});
#elif HWY_TARGET == HWY_SSE4 || HWY_TARGET == HWY_SSSE3
  return in_order(VI{_mm_add_epi16(sum.raw, _mm_maddubs_epi16(codes.raw, x.raw))});
#else
  unrolled<4>([&](auto byte) HWY_ATTR {
    constexpr int kAt = 8 * decltype(byte)::value;
    const VI code = hn::And(shift_right<kAt>(codes), hn::Set(DI(), 255));
    sum = hn::Add(sum, hn::Mul(code, hn::ShiftRight<24>(shift_left<24 - kAt>(x))));
  });
  return sum;
#endif
}

// Sums of codes times inputs.
struct LimbSums {
  VI high, low;

  HWY_INLINE LimbSums() : high(hn::Zero(DI())), low(high) {}
  HWY_INLINE void add(VI codes, const Limbs& x) {
    high = add_byte_products(high, codes, x.high);
    low = add_byte_products(low, codes, x.low);
  }
  // What has been added, of 32 bits, to `total`.
  HWY_INLINE VI added_to(VI total) const {
    if constexpr (kNarrowSums)
      return add_pair_products(add_pair_products(total, high, both_halves(1 << kLimbBits)), low,
                               both_halves(1));
    return hn::Add(total, hn::Add(hn::ShiftLeft<kLimbBits>(high), low));
  }
};

}  // namespace grinqh::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // the guard of this instruction set
