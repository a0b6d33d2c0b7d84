// Single weights that lie apart from the codes of their rows, as the CPU's decoding kernels read them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace grinqh {

// Of rows that follow each other.
struct OutlierRows {
  const uint32_t* begin = nullptr;  // [rows + 1], into the others; null: there are none
  const uint16_t* columns = nullptr;
  const uint16_t* values = nullptr;  // float16; kReadBeyond after the last can be read
};

struct OutlierLists {
  static constexpr size_t kReadBeyond = 16;  // a vector of values

  std::vector<uint32_t> begin;  // [rows + 1]; empty: there are none
  std::vector<uint16_t> columns, values;

  int64_t bytes() const {
    return static_cast<int64_t>(begin.size() * 4 + columns.size() * 2 + values.size() * 2);
  }
  OutlierRows from_row(int64_t row) const {
    if (begin.empty()) return {};
    return {begin.data() + row, columns.data(), values.data()};
  }
};

}  // namespace grinqh
