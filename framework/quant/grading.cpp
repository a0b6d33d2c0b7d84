#include "quant/grading.h"

#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/grading.cpp"
#include <hwy/foreach_target.h>  // compiles what follows once for every instruction set
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace grinqh::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

void Grade(const float* x, const float* thresholds, int64_t stride, const Level* increments, int64_t steps,
           Level base, Level* levels, int64_t count) {
  const hn::ScalableTag<float> df;
  const hn::RebindToSigned<decltype(df)> di;
  const hn::Rebind<uint8_t, decltype(df)> du8;
  const auto lanes = static_cast<int64_t>(hn::Lanes(df));
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto magnitude = hn::Abs(hn::LoadU(df, x + i));
    auto level = hn::Set(di, base);
    for (int64_t j = 0; j < steps; ++j) {
      const auto above =
          hn::RebindMask(di, hn::Not(hn::Le(magnitude, hn::LoadU(df, thresholds + j * stride + i))));
      level = hn::Add(level, hn::IfThenElseZero(above, hn::Set(di, increments[j])));
    }
    hn::StoreU(hn::DemoteTo(du8, level), du8, levels + i);
  }
  for (; i < count; ++i) {
    Level level = base;
    for (int64_t j = 0; j < steps; ++j)
      if (!(std::fabs(x[i]) <= thresholds[j * stride + i])) level = static_cast<Level>(level + increments[j]);
    levels[i] = level;
  }
}

}  // namespace grinqh::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace grinqh {

HWY_EXPORT(Grade);

void grade(std::span<const float> x, Matrix<const float> thresholds, std::span<const Level> increments,
           Level base, std::span<Level> levels) {
  HWY_DYNAMIC_DISPATCH(Grade)
  (x.data(), thresholds.data, thresholds.stride, increments.data(), static_cast<int64_t>(increments.size()),
   base, levels.data(), static_cast<int64_t>(levels.size()));
}

}  // namespace grinqh
#endif
