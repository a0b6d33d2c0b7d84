// Products of single weights that lie apart from a row's codes.
//
// Included once for every instruction set, hence Highway's guard.
#if defined(GRINQH_OUTLIER_PRODUCTS_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef GRINQH_OUTLIER_PRODUCTS_INL
#undef GRINQH_OUTLIER_PRODUCTS_INL
#else
#define GRINQH_OUTLIER_PRODUCTS_INL
#endif

#include <algorithm>

#include "kernels/common/outlier_rows.h"
#include "kernels/common/pair_products-inl.h"

HWY_BEFORE_NAMESPACE();
namespace grinqh::HWY_NAMESPACE {

// Sum of (value - base(k)) x[column] over a row's outliers k.
template <class Base>
HWY_INLINE float outlier_products(const OutlierRows& outliers, int64_t row, const float* x,
                                  const Base& base) {
  constexpr uint32_t kTogether = static_cast<uint32_t>(kLanes);
  HWY_ALIGN float values[kTogether];
  float sums[4] = {};
  const uint32_t end = outliers.begin[row + 1];
  for (uint32_t k = outliers.begin[row]; k < end; k += kTogether) {
    hn::Store(load_halves(outliers.values + k), DF(), values);
    const uint32_t count = std::min(kTogether, end - k);
    for (uint32_t i = 0; i < count; ++i)
      sums[i % 4] += (values[i] - base(k + i)) * x[outliers.columns[k + i]];
  }
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

}  // namespace grinqh::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // the guard of this instruction set
