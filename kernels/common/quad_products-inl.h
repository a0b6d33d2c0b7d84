// Sums of products of small codes with integers of 16 bits, four at a time: a lane of 32 bits holds the codes
// of one output at four inputs, a byte each, and an input is two signed bytes, 256 * upper + lower. That is
// one product of bytes and one addition of 16 bits a half, and less with VNNI. Lanes never meet: what is
// packed for 16 lanes serves vectors of any width.
//
// Included once for every instruction set, hence Highway's guard.
#if defined(GRINQH_QUAD_PRODUCTS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef GRINQH_QUAD_PRODUCTS_INL
#undef GRINQH_QUAD_PRODUCTS_INL
#else
#define GRINQH_QUAD_PRODUCTS_INL
#endif

#include "kernels/common/pair_products-inl.h"

HWY_BEFORE_NAMESPACE();
namespace grinqh::HWY_NAMESPACE {

// The greatest integer of two such bytes.
constexpr float kQuadLimit = 127 * 256;

#if HWY_TARGET == HWY_AVX3
#define GRINQH_QUAD_OP(name) _mm512_##name
#elif HWY_TARGET == HWY_AVX2
#define GRINQH_QUAD_OP(name) _mm256_##name
#elif HWY_TARGET == HWY_SSE4 || HWY_TARGET == HWY_SSSE3
#define GRINQH_QUAD_OP(name) _mm_##name
#endif

class QuadSums {
 public:
  HWY_INLINE QuadSums() : upper_(hn::Zero(DI())), lower_(hn::Zero(DI())) {}

  // Of codes up to 15 at most eight times: then neither half exceeds its 16 bits.
  HWY_INLINE void add(VI codes, VI upper, VI lower) {
    upper_ = add_bytes(upper_, codes, upper);
    lower_ = add_bytes(lower_, codes, lower);
  }

  HWY_INLINE VI total() const {
#ifdef GRINQH_QUAD_OP
    return hn::Add(VI{GRINQH_QUAD_OP(madd_epi16)(upper_.raw, both_halves(256).raw)},
                   VI{GRINQH_QUAD_OP(madd_epi16)(lower_.raw, both_halves(1).raw)});
#else
    return hn::Add(hn::ShiftLeft<8>(upper_), lower_);
#endif
  }

 private:
  static HWY_INLINE VI add_bytes(VI sum, VI codes, VI inputs) {
#ifdef GRINQH_QUAD_OP
    const auto products = GRINQH_QUAD_OP(maddubs_epi16)(codes.raw, inputs.raw);
    return VI{GRINQH_QUAD_OP(add_epi16)(sum.raw, products)};
#elif HWY_TARGET == HWY_AVX3_DL
    return VI{_mm512_dpbusd_epi32(sum.raw, codes.raw, inputs.raw)};
#else
    unrolled<4>([&](auto byte) HWY_ATTR {
      const VI code = hn::And(hn::ShiftRight<8 * byte()>(codes), hn::Set(DI(), 255));
      sum = hn::Add(sum, hn::Mul(code, hn::ShiftRight<24>(hn::ShiftLeft<24 - 8 * byte()>(inputs))));
    });
    return sum;
#endif
  }

  VI upper_, lower_;
};

#undef GRINQH_QUAD_OP

// The same byte in all four of every lane.
HWY_INLINE VI all_bytes(int32_t byte) { return hn::Set(DI(), byte * 0x01010101); }

// Field `f` of kBits bits of each byte.
template <int kBits, int kField>
HWY_INLINE VI byte_fields(VI v) {
  return hn::And(shift_right<kBits * kField>(v), all_bytes((1 << kBits) - 1));
}

// One token's inputs, as quads have them: four of them begin at every fourth byte.
struct QuadInputs {
  const int8_t *upper, *lower;

  HWY_INLINE QuadInputs from(int64_t input) const { return {upper + input, lower + input}; }
  static HWY_INLINE VI everywhere(const int8_t* four) {
    int32_t lane;
    __builtin_memcpy(&lane, four, sizeof(lane));
    return hn::Set(DI(), lane);
  }
  HWY_INLINE VI upper_quad(int64_t quad) const { return everywhere(upper + 4 * quad); }
  HWY_INLINE VI lower_quad(int64_t quad) const { return everywhere(lower + 4 * quad); }
};

// `count` values, zeros beyond.
HWY_INLINE VF load_first(const float* from, int64_t count) {
  if (count >= kLanes) return hn::LoadU(DF(), from);
  HWY_ALIGN float padded[kLanes] = {};
  for (int64_t i = 0; i < count; ++i) padded[i] = from[i];
  return hn::Load(DF(), padded);
}

// Greatest |x| of `count` values.
HWY_INLINE float greatest_of(const float* x, int64_t count) {
  VI most = hn::Zero(DI());
  for (int64_t i = 0; i < count; i += kLanes)
    most = hn::Max(most, magnitude_bits(load_first(x + i, count - i)));
  return greatest(most);
}

// Writes `count` inputs and zeros up to `padded` of them, a multiple of 16; returns the sum of the integers.
HWY_INLINE int32_t round_quads(const float* x, int64_t count, int64_t padded, const Step& step, int8_t* upper,
                               int8_t* lower) {
  const hn::Rebind<int8_t, DI> db;
  const VF inverse = hn::Set(DF(), step.inverse);
  VI sum = hn::Zero(DI());
  for (int64_t i = 0; i < padded; i += kLanes) {
    const VI whole = whole_steps(load_first(x + i, count - i), inverse);
    const VI high = hn::ShiftRight<8>(hn::Add(whole, hn::Set(DI(), 128)));
    hn::StoreU(hn::DemoteTo(db, high), db, upper + i);
    hn::StoreU(hn::DemoteTo(db, hn::Sub(whole, hn::ShiftLeft<8>(high))), db, lower + i);
    sum = hn::Add(sum, whole);
  }
  return hn::GetLane(hn::SumOfLanes(DI(), sum));
}

}  // namespace grinqh::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // the guard of this instruction set
