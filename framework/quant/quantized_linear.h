// A linear layer's weights in some memory layout. A layout owns its buffers and says completely what they
// are; accounting, saving and uploading need nothing else. Layouts live in kernels/<layout>/.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "core/matrix.h"
#include "quant/bit_count.h"
#include "quant/precision.h"

namespace grinqh {

struct NamedBuffer {
  std::string name;
  Role role;
  std::span<const std::byte> bytes;
};

class QuantizedLinear {
 public:
  virtual ~QuantizedLinear() = default;

  virtual int64_t in() const = 0;
  virtual int64_t out() const = 0;
  virtual std::string_view layout() const = 0;  // key of the kernel table
  virtual std::span<const Level> levels()
      const = 0;  // what a policy may ask for, ascending; the last is full
  virtual std::vector<NamedBuffer> buffers() const = 0;
  virtual Json attributes() const = 0;  // group size etc.; with buffers() enough to rebuild the layer

  // Bits that one token must read; at most stored_bits().
  virtual BitCount read_bits(const LevelCounts& counts) const = 0;

  // Rows [begin, end) of the weights, input channel i at levels[i] (zeros at level 0). Exact: the oracle of
  // every kernel. levels: [in]; w: [end - begin, in].
  virtual void dequantize_rows(std::span<const Level> levels, int64_t begin, int64_t end,
                               Matrix<float> w) const = 0;

  Level full_level() const { return levels().back(); }
  int64_t weights() const { return in() * out(); }
  BitCount stored_bits() const;  // sums buffers(), so it cannot be optimistic
  // All rows at one level, shared among threads.
  MatrixBuffer<float> dequantize(Level level = kFullLevel) const;
  // `level`, with kFullLevel resolved; BadInput if this layer does not store it.
  Level resolve(Level level) const;
};

// Makes a layer from buffers() and attributes() as they were saved.
using Buffers = std::map<std::string, std::vector<std::byte>, std::less<>>;
using Rebuild = std::function<std::unique_ptr<QuantizedLinear>(const Buffers&, const Json& attributes)>;

struct LayoutInfo {
  std::string summary;
  Rebuild rebuild;
};
struct RegisterLayout {
  RegisterLayout(std::string_view name, std::string_view summary, Rebuild rebuild);
};
const std::map<std::string, LayoutInfo, std::less<>>& layouts();

// buffers() of a layer as owned copies: what a file would hold.
Buffers copy_buffers(const QuantizedLinear& linear);

}  // namespace grinqh
