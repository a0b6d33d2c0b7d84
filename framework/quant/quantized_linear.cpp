#include "quant/quantized_linear.h"

#include <algorithm>

#include "core/error.h"
#include "core/parallel.h"
#include "core/text.h"

namespace grinqh {

namespace {
std::map<std::string, LayoutInfo, std::less<>>& layout_table() {
  static std::map<std::string, LayoutInfo, std::less<>> table;
  return table;
}
}  // namespace

BitCount QuantizedLinear::stored_bits() const {
  BitCount count;
  for (const NamedBuffer& buffer : buffers())
    count[buffer.role] += static_cast<int64_t>(buffer.bytes.size()) * 8;
  return count;
}

MatrixBuffer<float> QuantizedLinear::dequantize(Level level) const {
  constexpr int64_t kTaskRows = 64;
  const std::vector<Level> channel_levels(static_cast<size_t>(in()), resolve(level));
  MatrixBuffer<float> w(out(), in());
  parallel_for((out() + kTaskRows - 1) / kTaskRows, [&](int64_t task) {
    const int64_t begin = task * kTaskRows;
    const int64_t end = std::min(begin + kTaskRows, out());
    dequantize_rows(channel_levels, begin, end, w.view().rows_between(begin, end));
  });
  return w;
}

Level QuantizedLinear::resolve(Level level) const {
  if (level == kFullLevel) return full_level();
  if (std::ranges::find(levels(), level) != levels().end()) return level;
  std::vector<std::string> known;
  for (const Level stored : levels()) known.push_back(std::to_string(stored));
  bad_input("level {} is not stored by this {} layer; it has {}", level, layout(), join(known, ", "));
}

RegisterLayout::RegisterLayout(std::string_view name, std::string_view summary, Rebuild rebuild) {
  check(layout_table().emplace(name, LayoutInfo{std::string(summary), std::move(rebuild)}).second,
        "two layouts of one name");
}

const std::map<std::string, LayoutInfo, std::less<>>& layouts() { return layout_table(); }

Buffers copy_buffers(const QuantizedLinear& linear) {
  Buffers copies;
  for (const NamedBuffer& buffer : linear.buffers())
    copies.emplace(buffer.name, std::vector<std::byte>(buffer.bytes.begin(), buffer.bytes.end()));
  return copies;
}

}  // namespace grinqh
