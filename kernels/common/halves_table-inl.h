// Tables of 16-bit integers by codes in both halves of lanes (pair_products-inl.h).
#if defined(GRINQH_HALVES_TABLE_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef GRINQH_HALVES_TABLE_INL
#undef GRINQH_HALVES_TABLE_INL
#else
#define GRINQH_HALVES_TABLE_INL
#endif

#include "kernels/common/pair_products-inl.h"

HWY_BEFORE_NAMESPACE();
namespace grinqh::HWY_NAMESPACE {

// Entries of a table by the lowest kIndexBits of both halves, 4 or 6 of them; a table by 4 is stored four
// times.
template <int kIndexBits>
class HalvesTable {
 public:
#if HWY_TARGET == HWY_AVX3_DL || HWY_TARGET == HWY_AVX3
  // vpermw takes 5 bits of an index, and so does not care for one more.
  explicit HalvesTable(const int16_t* table)
      : low_{_mm512_loadu_si512(table)}, high_{_mm512_loadu_si512(table + 32)} {}
  HWY_INLINE VI operator()(VI index) const {
    if constexpr (kIndexBits == 4) return VI{_mm512_permutexvar_epi16(index.raw, low_.raw)};
    return VI{_mm512_permutex2var_epi16(low_.raw, index.raw, high_.raw)};
  }

 private:
  VI low_, high_;
#else
  explicit HalvesTable(const int16_t* table) : table_(table) {
    for (int i = 0; i < 16; ++i) {
      low_[i] = static_cast<uint8_t>(table[i]);
      high_[i] = static_cast<uint8_t>(table[i] >> 8);
    }
  }
  HWY_INLINE VI operator()(VI index) const {
#if HWY_TARGET != HWY_SCALAR
    if constexpr (kIndexBits == 4) {
      const hn::Repartition<uint8_t, DI> db;
      const VI nibbles = hn::And(index, both_halves(15));
      const auto bytes = hn::BitCast(db, hn::Or(nibbles, hn::ShiftLeft<8>(nibbles)));
      const auto of = [&](const uint8_t* part) HWY_ATTR {
        return hn::BitCast(DI(), hn::TableLookupBytes(hn::LoadDup128(db, part), bytes));
      };
      return select_bits(both_halves(255), of(low_), of(high_));
    }
#endif
    const hn::Rebind<uint32_t, DI> du;
    HWY_ALIGN uint32_t lanes[kLanes];
    hn::Store(hn::BitCast(du, index), du, lanes);
    constexpr uint32_t kMask = (1u << kIndexBits) - 1;
    for (uint32_t& lane : lanes)
      lane = static_cast<uint16_t>(table_[lane & kMask]) |
             static_cast<uint32_t>(static_cast<uint16_t>(table_[lane >> 16 & kMask])) << 16;
    return hn::BitCast(DI(), hn::Load(du, lanes));
  }

 private:
  const int16_t* table_;
  HWY_ALIGN uint8_t low_[16], high_[16];
#endif
};

}  // namespace grinqh::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // the guard of this instruction set
