#include "kernels/lut_planes/cpu_gemv_kernel.h"

#include <array>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/lut_planes/cpu_gemv_kernel.cpp"
#define HWY_WANT_AVX3_DL
#include <hwy/foreach_target.h>  // compiles what follows once for every instruction set
#include <hwy/highway.h>

#include "kernels/common/outlier_products-inl.h"
#include "kernels/common/quad_products-inl.h"

HWY_BEFORE_NAMESPACE();
namespace grinqh::lut_planes::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using namespace grinqh::HWY_NAMESPACE;

constexpr int kSlots = CpuOrder::kSlots;
constexpr int64_t kBlock = CpuOrder::kBlock, kLine = CpuOrder::kLine;

// A row's lines of one block.
struct BlockLines {
  const uint8_t *digits, *planes[CpuOrder::kSegments - 1];
};

#if HWY_TARGET == HWY_SCALAR

// Nothing is moved: inputs stay in their order, and codes are put together one by one.
void order_inputs(const int16_t* from, int16_t* to) { std::memcpy(to, from, kBlock * sizeof(int16_t)); }

struct RowTables {
  const uint8_t* bytes = nullptr;
};
template <int kLevel>
void set_tables(const uint8_t* from, RowTables& to) {
  to.bytes = from;
}

template <int kLevel>
VF add_block(const BlockLines& lines, const RowTables& tables, const int16_t* x, VF step, VF sum) {
  for (int slot = 0; slot < kSlots; ++slot) {
    int64_t products = 0;
    for (int64_t p = 0; p < kLine; ++p) {
      int code = lines.digits[slot / 4 * kLine + p] >> slot % 4 * 2 & 3;
      for (int plane = 2; plane < kLevel; ++plane)
        code = code << 1 | (lines.planes[plane - 2][p] >> CpuOrder::bit_of(plane, slot) & 1);
      if (kLevel == 1) code >>= 1;
      const uint8_t* low = tables.bytes + CpuOrder::table_place(kLevel, code);
      const auto entry = static_cast<int16_t>(low[0] | low[CpuOrder::high_after(kLevel)] << 8);
      products += entry * x[slot * kLine + p];
    }
    sum = hn::MulAdd(step, hn::Set(DF(), static_cast<float>(products)), sum);
  }
  return sum;
}

#else

using DB = hn::Repartition<uint8_t, DI>;
using VB = hn::Vec<DB>;
using D16 = hn::Full128<uint8_t>;
constexpr int64_t kBytes = kLanes * 4;

// Low and high bytes of looked-up entries are interleaved within 16 bytes: so the inputs lie.
void order_inputs(const int16_t* from, int16_t* to) {
  for (int64_t chunk = 0; chunk < kLine; chunk += kBytes)
    for (int64_t slot = 0; slot < kSlots; ++slot)
      for (int64_t half = 0; half < 16; half += 8)
        for (int64_t sixteen = 0; sixteen < kBytes; sixteen += 16, to += 8)
          std::memcpy(to, from + slot * kLine + chunk + sixteen + half, 8 * sizeof(int16_t));
}

// Tables of a row for lookups by nibbles: for even slots and for odd ones, whose nibbles have the bits of the
// third and fourth plane (with two planes: the digits of two slots) the other way round.
struct RowTables {
  alignas(16) uint8_t bytes[2][16][2][16];  // [odd][lowest bits of the code][high][nibble]
};

// Which of sixteen bytes, or of the low or high ones of fewer entries, a nibble finds.
constexpr std::array<uint8_t, 16> lookup_order(int level, bool odd, bool high) {
  std::array<uint8_t, 16> order{};
  for (size_t n = 0; n < 16; ++n) {
    const size_t digit = n & 3, swapped = digit | (n >> 3 & 1) << 2 | (n >> 2 & 1) << 3;
    size_t at = odd ? swapped : n;
    if (level == 3) at %= 8;
    if (level <= 2) at = odd ? n >> 2 : digit;
    order[n] = static_cast<uint8_t>(at + (high && level < 4 ? size_t{1} << (level < 2 ? 2 : level) : 0));
  }
  return order;
}

template <int kLevel>
HWY_INLINE void set_tables(const uint8_t* from, RowTables& to) {
  constexpr int kTables = kLevel > 4 ? 1 << (kLevel - 4) : 1;
  unrolled<4>([&](auto kind) HWY_ATTR {
    constexpr int kOdd = kind() / 2, kHigh = kind() % 2;
    alignas(16) static constexpr auto kOrder = lookup_order(kLevel, kOdd, kHigh);
    const auto order = hn::Load(D16(), kOrder.data());
    for (int64_t t = 0; t < kTables; ++t) {
      const auto bytes = hn::LoadU(D16(), from + t * 32 + (kLevel >= 4 ? kHigh * 16 : 0));
      hn::Store(hn::TableLookupBytes(bytes, order), D16(), to.bytes[kOdd][t][kHigh]);
    }
  });
}

HWY_INLINE VI load_line(const uint8_t* from) {
  return hn::LoadU(DI(), reinterpret_cast<const int32_t*>(from));
}

// Calls body(slot, nibbles) for the eight slots of a vector of bytes in a block's lines, `at` bytes on.
template <int kLevel, class Body>
HWY_INLINE void for_nibbles(const BlockLines& lines, int64_t at, const Body& body) {
  const VI low_nibble = all_bytes(0x0f), digits_of = all_bytes(0x33);
  const auto both = [&](auto low_slot, auto high_slot, VI bytes) HWY_ATTR {
    body(low_slot, hn::And(bytes, low_nibble));
    body(high_slot, hn::And(shift_right<4>(bytes), low_nibble));
  };
  unrolled<2>([&](auto line) HWY_ATTR {
    constexpr int kFirst = 4 * line();
    const std::integral_constant<int, kFirst> first;
    const std::integral_constant<int, kFirst + 1> second;
    const std::integral_constant<int, kFirst + 2> third;
    const std::integral_constant<int, kFirst + 3> fourth;
    const VI digits = load_line(lines.digits + line() * kLine + at);
    if constexpr (kLevel <= 2) {
      // A nibble is the digits of two slots.
      const VI low = hn::And(digits, low_nibble), high = hn::And(shift_right<4>(digits), low_nibble);
      body(first, low);
      body(second, low);
      body(third, high);
      body(fourth, high);
    } else {
      VI even = load_line(lines.planes[0] + at), odd = even;
      if constexpr (kLevel > 3) {
        const VI fourth_plane = load_line(lines.planes[1] + at);
        const VI exchanged = hn::And(hn::Xor(even, fourth_plane), all_bytes(0x55));
        even = hn::Xor(fourth_plane, exchanged);  // bits 0, 2, ... of the third plane, 1, 3, ... of the other
        odd = hn::Xor(odd, exchanged);            // the other way round
      }
      const auto nibbles = [&](VI above, VI field) HWY_ATTR {
        return select_bits(digits_of, field, shift_left<2 * line()>(above));
      };
      both(first, third, nibbles(even, digits));
      both(second, fourth, nibbles(odd, shift_right<2>(digits)));
    }
  });
}

// Entries of the tables in `bytes` by nibbles and kExtra planes more, the last of them lowest.
template <int kExtra>
HWY_INLINE VB look_up(const uint8_t (*bytes)[2][16], int high, VB nibbles, const VI* extra) {
  const DB db;
  if constexpr (kExtra == 0) {
    return hn::TableLookupBytes(hn::LoadDup128(db, bytes[0][high]), nibbles);
  } else {
    const hn::Rebind<int8_t, DB> ds;
    const auto zero = look_up<kExtra - 1>(bytes, high, nibbles, extra + 1);
    const auto one = look_up<kExtra - 1>(bytes + (1 << (kExtra - 1)), high, nibbles, extra + 1);
    auto sign = hn::BitCast(ds, extra[0]);
#if HWY_TARGET == HWY_SSSE3
    sign = hn::BroadcastSignBit(sign);  // Highway 1.0 takes all bits of a byte for its sign there
#endif
    return hn::BitCast(db, hn::IfNegativeThenElse(sign, hn::BitCast(ds, one), hn::BitCast(ds, zero)));
  }
}

// Adds a block's products to `sum`. Every 32 products of 32 bits are exact.
template <int kLevel>
HWY_INLINE VF add_block(const BlockLines& lines, const RowTables& tables, const int16_t* x, VF step, VF sum) {
  constexpr int kExtra = kLevel > 4 ? kLevel - 4 : 0;
  const DB db;
  for (int64_t at = 0; at < kLine; at += kBytes, x += kSlots * kBytes) {
    VI products = hn::Zero(DI());
    for_nibbles<kLevel>(lines, at, [&](auto slot, VI nibbles) HWY_ATTR {
      VI extra[kExtra + 1];
      unrolled<kExtra>([&](auto e) HWY_ATTR {
        extra[e()] = shift_left<7 - slot()>(load_line(lines.planes[2 + e()] + at));
      });
      const auto& of_slot = tables.bytes[slot() % 2];
      const VB index = hn::BitCast(db, nibbles);
      const VB low = look_up<kExtra>(of_slot, 0, index, extra),
               high = look_up<kExtra>(of_slot, 1, index, extra);
      const auto add = [&](VB entries, int64_t half) HWY_ATTR {
        const VI inputs = hn::LoadU(DI(), reinterpret_cast<const int32_t*>(x) + (slot() * 2 + half) * kLanes);
        products = add_pair_products(products, hn::BitCast(DI(), entries), inputs);
      };
      add(hn::InterleaveLower(db, low, high), 0);
      add(hn::InterleaveUpper(db, low, high), 1);
    });
    sum = hn::MulAdd(step, hn::ConvertTo(DF(), products), sum);
  }
  return sum;
}

#endif  // HWY_SCALAR

template <int kLevel>
void multiply_rows(const CpuOrder& order, const TileWeights& weights, const RoundedInputs& inputs, float* y) {
  const DF d;
  HWY_ALIGN float sums[CpuOrder::kTile * kLanes] = {};
  for (int64_t first = 0; first < order.blocks(); first += CpuOrder::kSpanBlocks)
    for (int64_t row = 0; row < weights.outputs; ++row) {
      RowTables tables;
      set_tables<kLevel>(weights.tables + row * CpuOrder::table_bytes(kLevel), tables);
      BlockLines lines{weights.segments[0] + order.row_begin(0, first, row), {}};
      for (int segment = 1; segment < kLevel - 1; ++segment)
        lines.planes[segment - 1] = weights.segments[segment] + order.row_begin(segment, first, row);
      VF sum = hn::Load(d, sums + row * kLanes);
      for (int64_t b = first; b < std::min(first + CpuOrder::kSpanBlocks, order.blocks()); ++b) {
        sum = add_block<kLevel>(lines, tables, inputs.x + b * kBlock, hn::Set(d, inputs.steps[b]), sum);
        lines.digits += 2 * kLine;
        for (int segment = 1; segment < kLevel - 1; ++segment) lines.planes[segment - 1] += kLine;
      }
      hn::Store(sum, d, sums + row * kLanes);
    }
  for (int64_t row = 0; row < weights.outputs; ++row)
    y[row] = weights.units[row] * hn::GetLane(hn::SumOfLanes(d, hn::Load(d, sums + row * kLanes)));
}

void RoundBlock(const CpuOrder& order, const float* x, int64_t block, RoundedInputs to) {
  const hn::Rebind<int16_t, DI> dh;
  const int64_t first = block * kBlock, count = std::min(kBlock, order.in - first);
  const Step step(greatest_of(x + first, count), CpuOrder::kLimit);
  HWY_ALIGN int16_t rounded[kBlock];
  for (int64_t i = 0; i < kBlock; i += kLanes) {
    const VF input = hn::Mul(load_first(x + first + i, count - i), hn::Set(DF(), step.inverse));
    hn::Store(hn::DemoteTo(dh, hn::NearestInt(input)), dh, rounded + i);
  }
  order_inputs(rounded, to.x + first);
  to.steps[block] = step.step;
}

// What the values of a row's outliers add beyond what their codes have added.
float outliers_of_row(int level, const TileWeights& weights, int64_t row, const float* x) {
  const uint8_t* table = weights.tables + row * CpuOrder::table_bytes(level);
  const float unit = weights.units[row];
  return outlier_products(weights.outliers, row, x, [&](uint32_t k) HWY_ATTR {
    const uint8_t* low = table + CpuOrder::table_place(level, weights.outlier_codes[k] >> (8 - level));
    return unit * static_cast<float>(static_cast<int16_t>(low[0] | low[CpuOrder::high_after(level)] << 8));
  });
}

void MultiplyTile(const CpuOrder& order, int level, const TileWeights& weights, const RoundedInputs& inputs,
                  const float* x, float* y) {
  switch (level) {
    case 1:
      multiply_rows<1>(order, weights, inputs, y);
      break;
    case 2:
      multiply_rows<2>(order, weights, inputs, y);
      break;
    case 3:
      multiply_rows<3>(order, weights, inputs, y);
      break;
    case 4:
      multiply_rows<4>(order, weights, inputs, y);
      break;
    case 5:
      multiply_rows<5>(order, weights, inputs, y);
      break;
    case 6:
      multiply_rows<6>(order, weights, inputs, y);
      break;
    case 7:
      multiply_rows<7>(order, weights, inputs, y);
      break;
    default:
      multiply_rows<8>(order, weights, inputs, y);
  }
  if (weights.outliers.begin)
    for (int64_t row = 0; row < weights.outputs; ++row) y[row] += outliers_of_row(level, weights, row, x);
}

}  // namespace grinqh::lut_planes::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace grinqh::lut_planes {

HWY_EXPORT(RoundBlock);
HWY_EXPORT(MultiplyTile);

void round_block(const CpuOrder& order, const float* x, int64_t block, RoundedInputs to) {
  HWY_DYNAMIC_DISPATCH(RoundBlock)(order, x, block, to);
}

void multiply_tile(const CpuOrder& order, int level, const TileWeights& weights, const RoundedInputs& inputs,
                   const float* x, float* y) {
  HWY_DYNAMIC_DISPATCH(MultiplyTile)(order, level, weights, inputs, x, y);
}

}  // namespace grinqh::lut_planes

#endif  // HWY_ONCE
