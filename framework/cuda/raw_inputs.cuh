// Inputs of a GemvInput, loaded before they are used: many loads are under way before the first is waited
// for.
#pragma once

#include <type_traits>

#include "cuda/gemv_operands.cuh"

namespace grinqh::cuda {

// What load8_part() reads, as it lies; valid may be negative.
template <class T>
__device__ Packed8<T> load8_raw(const T* from, int valid) {
  Packed8<T> packed{};
  if (valid >= 8) packed = load8(from);
  if (valid <= 0 || valid >= 8) return packed;
  // Rare, so in little code: the last comes first and moves up with every one before it.
  uint4& low = packed.words[0];
#pragma unroll 1
  for (int i = valid - 1; i >= 0; --i) {
    if constexpr (sizeof(T) == 4) {
      uint4& high = packed.words[1];
      high = make_uint4(low.w, high.x, high.y, high.z);
      low = make_uint4(__float_as_uint(from[i]), low.x, low.y, low.z);
    } else {
      low = make_uint4(low.x << 16 | __bfloat16_as_ushort(from[i]), __funnelshift_l(low.x, low.y, 16),
                       __funnelshift_l(low.y, low.z, 16), __funnelshift_l(low.z, low.w, 16));
    }
  }
  return packed;
}

// load_unscaled_inputs() in two halves, so that many loads are under way before the first is waited for: no
// branch lies between them.
template <class T, GemvInput::Form kForm>
class RawInputs {
 public:
  // Inputs first .. first + 7.
  __device__ void load(const GemvInput& input, int in, int token, int first) {
    const T* x = input_row<T>(input, token) + first;
    const int valid = in - first;
    x_ = load8_raw(x, valid);
    if constexpr (kNormed) other_ = load8_raw(input.norm_weight + first, valid);
    if constexpr (kGated) other_ = load8_raw(x + in, valid);
  }
  __device__ void form(float (&v)[8], float& square) const {
    x_.unpack(v);
    if constexpr (kNormed || kGated) {
      float other[8];
      other_.unpack(other);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        if constexpr (kNormed) square = fmaf(v[i], v[i], square);
        v[i] = kNormed ? v[i] * other[i] : gated(v[i], other[i]);
      }
    }
  }

 private:
  static constexpr bool kNormed = kForm == GemvInput::Form::rms_norm;
  static constexpr bool kGated = kForm == GemvInput::Form::swiglu;

  Packed8<T> x_;
  Packed8<std::conditional_t<kNormed, float, T>> other_;  // the norm's weights, or what is gated
};

// Calls body(form) with a form that is known at compile time: form.value.
template <class Body>
__device__ void with_form(GemvInput::Form form, const Body& body) {
  using Form = GemvInput::Form;
  if (form == Form::plain)
    body(std::integral_constant<Form, Form::plain>());
  else if (form == Form::rms_norm)
    body(std::integral_constant<Form, Form::rms_norm>());
  else
    body(std::integral_constant<Form, Form::swiglu>());
}

}  // namespace grinqh::cuda
