#include "core/vector_math.h"

#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/vector_math.cpp"
#include <hwy/foreach_target.h>  // compiles what follows once for every instruction set
#include <hwy/highway.h>

#include <hwy/contrib/math/math-inl.h>

HWY_BEFORE_NAMESPACE();
namespace grinqh::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

// Elements summed in float32 before the partial sum goes over to float64.
constexpr size_t kBlock = 1024;

// Calls body(vector index, valid lanes) over n elements in blocks; `flush` after each block.
template <class Body, class Flush>
HWY_INLINE void for_blocks(size_t n, const Body& body, const Flush& flush) {
  const size_t lanes = hn::Lanes(D());
  for (size_t begin = 0; begin < n; begin += kBlock) {
    const size_t end = begin + kBlock < n ? begin + kBlock : n;
    size_t i = begin;
    for (; i + lanes <= end; i += lanes) body(i, lanes);
    if (i < end) body(i, end - i);
    flush();
  }
}

// Loads `count` lanes; the rest are `fill`.
HWY_INLINE V load_part(D d, const float* p, size_t count, float fill) {
  if (count == hn::Lanes(d)) return hn::LoadU(d, p);
  HWY_ALIGN float buffer[hn::MaxLanes(d)];
  for (size_t i = 0; i < hn::Lanes(d); ++i) buffer[i] = i < count ? p[i] : fill;
  return hn::Load(d, buffer);
}

HWY_INLINE void store_part(D d, V v, float* p, size_t count) {
  if (count == hn::Lanes(d)) return hn::StoreU(v, d, p);
  HWY_ALIGN float buffer[hn::MaxLanes(d)];
  hn::Store(v, d, buffer);
  for (size_t i = 0; i < count; ++i) p[i] = buffer[i];
}

constexpr float kLowest = -3.0e38f;  // exp() of it is zero

double ExpShifted(float* x, size_t n, float shift) {
  const D d;
  const V s = hn::Set(d, shift);
  V sum = hn::Zero(d);
  double total = 0;
  for_blocks(
      n,
      [&](size_t i, size_t count) {
        const V e = hn::Exp(d, hn::Sub(load_part(d, x + i, count, kLowest), s));
        store_part(d, e, x + i, count);
        sum = hn::Add(sum, e);
      },
      [&] {
        total += static_cast<double>(hn::GetLane(hn::SumOfLanes(d, sum)));
        sum = hn::Zero(d);
      });
  return total;
}

float Maximum(const float* x, size_t n) {
  const D d;
  V best = hn::Set(d, -HUGE_VALF);
  for_blocks(
      n, [&](size_t i, size_t count) { best = hn::Max(best, load_part(d, x + i, count, -HUGE_VALF)); },
      [] {});
  return hn::GetLane(hn::MaxOfLanes(d, best));
}

double LogSumExp(const float* x, size_t n) {
  const D d;
  const float shift = Maximum(x, n);
  const V s = hn::Set(d, shift);
  V sum = hn::Zero(d);
  double total = 0;
  for_blocks(
      n,
      [&](size_t i, size_t count) {
        sum = hn::Add(sum, hn::Exp(d, hn::Sub(load_part(d, x + i, count, kLowest), s)));
      },
      [&] {
        total += static_cast<double>(hn::GetLane(hn::SumOfLanes(d, sum)));
        sum = hn::Zero(d);
      });
  return static_cast<double>(shift) + std::log(total);
}

double ExpectedDifference(const float* p, const float* q, size_t n, float shift) {
  const D d;
  const V s = hn::Set(d, shift);
  V sum = hn::Zero(d);
  double total = 0;
  for_blocks(
      n,
      [&](size_t i, size_t count) {
        const V a = load_part(d, p + i, count, kLowest);
        const V b = load_part(d, q + i, count, kLowest);
        sum = hn::MulAdd(hn::Exp(d, hn::Sub(a, s)), hn::Sub(a, b), sum);
      },
      [&] {
        total += static_cast<double>(hn::GetLane(hn::SumOfLanes(d, sum)));
        sum = hn::Zero(d);
      });
  return total;
}

void SiluMultiply(const float* gate, const float* up, float* out, size_t n) {
  const D d;
  const V one = hn::Set(d, 1.0f);
  for_blocks(
      n,
      [&](size_t i, size_t count) {
        const V g = load_part(d, gate + i, count, 0.0f);
        const V u = load_part(d, up + i, count, 0.0f);
        const V sigmoid = hn::Div(one, hn::Add(one, hn::Exp(d, hn::Neg(g))));
        store_part(d, hn::Mul(hn::Mul(g, sigmoid), u), out + i, count);
      },
      [] {});
}

// silu(g) = g s with s = sigmoid(g); its derivative is s (1 + g (1 - s)).
void SiluMultiplyBackward(float* gate, float* up, const float* gradient, size_t n) {
  const D d;
  const V one = hn::Set(d, 1.0f);
  for_blocks(
      n,
      [&](size_t i, size_t count) {
        const V g = load_part(d, gate + i, count, 0.0f);
        const V u = load_part(d, up + i, count, 0.0f);
        const V out = load_part(d, gradient + i, count, 0.0f);
        const V sigmoid = hn::Div(one, hn::Add(one, hn::Exp(d, hn::Neg(g))));
        const V slope = hn::Mul(sigmoid, hn::MulAdd(g, hn::Sub(one, sigmoid), one));
        store_part(d, hn::Mul(hn::Mul(out, u), slope), gate + i, count);
        store_part(d, hn::Mul(out, hn::Mul(g, sigmoid)), up + i, count);
      },
      [] {});
}

double SumOfSquares(const float* x, size_t n) {
  const D d;
  V sum = hn::Zero(d);
  double total = 0;
  for_blocks(
      n,
      [&](size_t i, size_t count) {
        const V v = load_part(d, x + i, count, 0.0f);
        sum = hn::MulAdd(v, v, sum);
      },
      [&] {
        total += static_cast<double>(hn::GetLane(hn::SumOfLanes(d, sum)));
        sum = hn::Zero(d);
      });
  return total;
}

}  // namespace grinqh::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace grinqh {

HWY_EXPORT(ExpShifted);
HWY_EXPORT(Maximum);
HWY_EXPORT(LogSumExp);
HWY_EXPORT(ExpectedDifference);
HWY_EXPORT(SiluMultiply);
HWY_EXPORT(SiluMultiplyBackward);
HWY_EXPORT(SumOfSquares);

double exp_shifted(std::span<float> x, float shift) {
  return HWY_DYNAMIC_DISPATCH(ExpShifted)(x.data(), x.size(), shift);
}
float maximum(std::span<const float> x) { return HWY_DYNAMIC_DISPATCH(Maximum)(x.data(), x.size()); }
double log_sum_exp(std::span<const float> x) { return HWY_DYNAMIC_DISPATCH(LogSumExp)(x.data(), x.size()); }
double expected_difference(std::span<const float> p, std::span<const float> q, float shift) {
  return HWY_DYNAMIC_DISPATCH(ExpectedDifference)(p.data(), q.data(), p.size(), shift);
}
void silu_multiply(std::span<const float> gate, std::span<const float> up, std::span<float> out) {
  HWY_DYNAMIC_DISPATCH(SiluMultiply)(gate.data(), up.data(), out.data(), out.size());
}
void silu_multiply_backward(std::span<float> gate, std::span<float> up, std::span<const float> gradient) {
  HWY_DYNAMIC_DISPATCH(SiluMultiplyBackward)(gate.data(), up.data(), gradient.data(), gate.size());
}
double sum_of_squares(std::span<const float> x) {
  return HWY_DYNAMIC_DISPATCH(SumOfSquares)(x.data(), x.size());
}

}  // namespace grinqh
#endif
