#include "core/dtype.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>

#include "core/error.h"
#include "core/parallel.h"

namespace grinqh {

namespace {

// Rows are converted in tasks of about this many elements.
constexpr int64_t kTaskElements = 1 << 18;

template <class T>
T load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}

float from_bf16(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

void convert(DType type, const std::byte* from, int64_t count, float* to) {
  switch (type) {
    case DType::f32:
      // Both may be null where there is nothing, which memcpy does not allow.
      if (count > 0) std::memcpy(to, from, static_cast<size_t>(count) * sizeof(float));
      return;
    case DType::bf16:
      for (int64_t i = 0; i < count; ++i) to[i] = from_bf16(load<uint16_t>(from + 2 * i));
      return;
    case DType::f16:
      for (int64_t i = 0; i < count; ++i) to[i] = from_half(load<uint16_t>(from + 2 * i));
      return;
  }
}

// 64-bit products of several values at a time are there with AVX-512 alone. No sum follows a product, so that
// all give the same bits.
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__)
__attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#endif
void make_values(const GeneratedValues& values, int64_t begin, int64_t end, uint16_t* to) {
  for (int64_t i = begin; i < end; ++i) to[i] = values.at(i);
}

// All exponent bits set: NaN or infinite.
bool non_finite(DType type, const std::byte* at) {
  switch (type) {
    case DType::f32:
      return (load<uint32_t>(at) & 0x7f800000u) == 0x7f800000u;
    case DType::bf16:
      return (load<uint16_t>(at) & 0x7f80u) == 0x7f80u;
    case DType::f16:
      return (load<uint16_t>(at) & 0x7c00u) == 0x7c00u;
  }
  return false;
}

}  // namespace

int64_t size_of(DType type) { return type == DType::f32 ? 4 : 2; }

std::string_view to_string(DType type) {
  switch (type) {
    case DType::f32:
      return "F32";
    case DType::f16:
      return "F16";
    case DType::bf16:
      return "BF16";
  }
  return "";
}

int64_t TensorView::elements() const {
  int64_t count = 1;
  for (const int64_t extent : shape) count *= extent;
  return count;
}

void to_float(const TensorView& tensor, int64_t begin, int64_t end, Matrix<float> out) {
  const int64_t cols = tensor.cols();
  check(begin >= 0 && end <= tensor.rows() && out.rows == end - begin && out.cols == cols, "to_float: shape");
  const std::byte* data = tensor.data();
  for (int64_t r = begin; r < end; ++r)
    convert(tensor.dtype, data + r * cols * size_of(tensor.dtype), cols, out.row(r - begin));
}

const std::byte* GeneratedTensor::data() const {
  std::call_once(made_, [&] {
    stored_ = MatrixBuffer<uint16_t>(1, count_);
    parallel_for((count_ + kTaskElements - 1) / kTaskElements, [&](int64_t task) {
      make_values(values_, task * kTaskElements, std::min(count_, (task + 1) * kTaskElements),
                  stored_.data());
    });
  });
  return std::as_bytes(std::span(stored_.data(), 1)).data();
}

MatrixBuffer<float> to_float(const TensorView& tensor) {
  if (tensor.generated) tensor.data();  // here, where all threads can take part
  MatrixBuffer<float> out(tensor.rows(), tensor.cols());
  const int64_t step = std::max<int64_t>(1, kTaskElements / std::max<int64_t>(1, tensor.cols()));
  parallel_for((tensor.rows() + step - 1) / step, [&](int64_t task) {
    const int64_t begin = task * step;
    const int64_t end = std::min(begin + step, tensor.rows());
    to_float(tensor, begin, end, out.view().rows_between(begin, end));
  });
  return out;
}

std::vector<float> to_float_vector(const TensorView& tensor) {
  if (tensor.empty()) return {};
  std::vector<float> out(static_cast<size_t>(tensor.elements()));
  convert(tensor.dtype, tensor.data(), tensor.elements(), out.data());
  return out;
}

namespace {

TensorView owning(std::shared_ptr<const MatrixBuffer<float>> values, std::vector<int64_t> shape) {
  TensorView view;
  view.shape = std::move(shape);
  view.bytes = std::as_bytes(std::span(values->data(), static_cast<size_t>(values->size())));
  view.owner = std::move(values);
  return view;
}

}  // namespace

TensorView owned_tensor(MatrixBuffer<float> values) {
  const std::vector<int64_t> shape{values.rows(), values.cols()};
  return owning(std::make_shared<const MatrixBuffer<float>>(std::move(values)), shape);
}

TensorView owned_tensor(const std::vector<float>& values) {
  const auto size = static_cast<int64_t>(values.size());
  MatrixBuffer<float> copy(1, size);
  std::ranges::copy(values, copy.data());
  return owning(std::make_shared<const MatrixBuffer<float>>(std::move(copy)), {size});
}

TensorView generated_tensor(std::vector<int64_t> shape, const GeneratedValues& values) {
  TensorView view{DType::bf16, std::move(shape), {}};
  view.generated = std::make_shared<const GeneratedTensor>(values, view.elements());
  return view;
}

int64_t find_non_finite(const TensorView& tensor) {
  const int64_t count = tensor.elements();
  const std::byte* data = tensor.data();
  std::atomic<int64_t> first = count;
  parallel_for((count + kTaskElements - 1) / kTaskElements, [&](int64_t task) {
    const int64_t end = std::min((task + 1) * kTaskElements, count);
    for (int64_t i = task * kTaskElements; i < end; ++i) {
      if (!non_finite(tensor.dtype, data + i * size_of(tensor.dtype))) continue;
      int64_t seen = first;
      while (i < seen && !first.compare_exchange_weak(seen, i)) {
      }
      return;
    }
  });
  return first == count ? -1 : first.load();
}

bool all_finite(std::span<const float> values) {
  return find_non_finite({DType::f32, {std::ssize(values)}, std::as_bytes(values)}) < 0;
}

float rounded_to(DType type, float value) {
  if (type == DType::f32) return value;
  if (type == DType::f16) return from_half(to_half(value));
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return from_bf16(static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16));
}

}  // namespace grinqh
