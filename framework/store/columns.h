// The columns that every row of a report has, in their order; what each means is in results/SCHEMA.md.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace grinqh {

enum class ColumnKind : uint8_t { text, integer, real };

struct Column {
  std::string_view name;
  ColumnKind kind;
};

inline constexpr std::array kRowColumns = {
    Column{"model", ColumnKind::text},
    Column{"quantizer", ColumnKind::text},
    Column{"policy", ColumnKind::text},
    Column{"options", ColumnKind::text},  // a JSON object
    Column{"device", ColumnKind::text},
    Column{"dataset", ColumnKind::text},
    Column{"phase", ColumnKind::text},
    Column{"context", ColumnKind::integer},
    Column{"tokens", ColumnKind::integer},
    Column{"perplexity", ColumnKind::real},
    Column{"perplexity_float", ColumnKind::real},
    Column{"kl_mean", ColumnKind::real},
    Column{"kl_p99", ColumnKind::real},
    Column{"top1_agreement", ColumnKind::real},
    Column{"stored_bits", ColumnKind::real},
    Column{"read_bits_codes", ColumnKind::real},
    Column{"read_bits_total", ColumnKind::real},
    Column{"quantize_seconds", ColumnKind::real},
    Column{"evaluate_seconds", ColumnKind::real},
    Column{"seed", ColumnKind::integer},
    Column{"status", ColumnKind::text},
};

// The entry of kRowColumns, or nullptr for a column that only some rows have.
constexpr const Column* find_column(std::string_view name) {
  for (const Column& column : kRowColumns)
    if (column.name == name) return &column;
  return nullptr;
}

}  // namespace grinqh
