// Element types of weights as checkpoints store them, and their exact conversion to float32.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string_view>
#include <vector>

#include "core/generated_values.h"
#include "core/half.h"  // from_half, to_half
#include "core/matrix.h"

namespace grinqh {

enum class DType : uint8_t { f32, f16, bf16 };

int64_t size_of(DType type);  // bytes an element
std::string_view to_string(DType type);

// A bf16 tensor that is made rather than stored. On the CPU it comes into being when it is first read.
class GeneratedTensor {
 public:
  GeneratedTensor(const GeneratedValues& values, int64_t count) : values_(values), count_(count) {}
  const GeneratedValues& values() const { return values_; }
  // Of the CPU's copy; threads may ask at the same time.
  const std::byte* data() const;

 private:
  GeneratedValues values_;
  int64_t count_;
  mutable std::once_flag made_;
  mutable MatrixBuffer<uint16_t> stored_;
};

// A tensor that lives elsewhere (a mapped file, mostly); little-endian, row-major, possibly unaligned.
struct TensorView {
  DType dtype = DType::f32;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;
  std::shared_ptr<const void> owner =
      nullptr;  // of bytes that no file holds: they live as long as a view does
  std::shared_ptr<const GeneratedTensor> generated = nullptr;  // instead of bytes

  int64_t elements() const;
  const std::byte* data() const { return generated ? generated->data() : bytes.data(); }
  bool empty() const { return bytes.empty() && !generated; }
  int64_t rows() const { return shape.empty() ? 0 : shape[0]; }
  int64_t cols() const { return shape.size() < 2 ? 1 : shape[1]; }
};

// Rows [begin, end) of a matrix, or elements of a vector, as float32. out: [end - begin, cols].
void to_float(const TensorView& tensor, int64_t begin, int64_t end, Matrix<float> out);
// The whole tensor; the work is shared among threads.
MatrixBuffer<float> to_float(const TensorView& tensor);
std::vector<float> to_float_vector(const TensorView& tensor);

// Views that own float32 values: [rows, cols], and a vector.
TensorView owned_tensor(MatrixBuffer<float> values);
TensorView owned_tensor(const std::vector<float>& values);

// A view of values that are made where they are read.
TensorView generated_tensor(std::vector<int64_t> shape, const GeneratedValues& values);

// Index of the first element that is NaN or infinite, or -1.
int64_t find_non_finite(const TensorView& tensor);
bool all_finite(std::span<const float> values);

// The nearest value of the type, ties to even.
float rounded_to(DType type, float value);

}  // namespace grinqh
