#include "kernels/nested/cpu_gemv_kernel.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/nested/cpu_gemv_kernel.cpp"
#define HWY_WANT_AVX3_DL
#include <hwy/foreach_target.h>  // compiles what follows once for every instruction set
#include <hwy/highway.h>

#include "kernels/common/halves_table-inl.h"
#include "kernels/common/pair_products-inl.h"

HWY_BEFORE_NAMESPACE();
namespace grinqh::nested::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using namespace grinqh::HWY_NAMESPACE;

// Outputs of half a tile are 16 sums in registers; where there are but 16 registers, every other at a time.
constexpr int kSums = CpuOrder::kSums;
constexpr int64_t kMaxTokens = 8;
constexpr int kParts = HWY_MAX_BYTES >= 64 || HWY_TARGET == HWY_SCALAR ? 1 : 2;

// Where the planes of a block's channels are that one level reads, for half a tile; zeros for those below it.
struct Lines {
  const uint8_t* begin[CpuOrder::kPlanes];
  int64_t stride[CpuOrder::kPlanes];
  int shift[CpuOrder::kPlanes];
  // Each line once, no plane's but the others'; what is not there is no one's.
  int count = 0;
  const uint8_t* line[CpuOrder::kPlanes];
  int64_t line_stride[CpuOrder::kPlanes];
};

alignas(64) constexpr uint8_t kNoPlane[CpuOrder::kLine] = {};

// Fields twice as wide: `upper` above `lower`, of the even fields or of the odd ones.
template <int kWidth, int kOdd>
HWY_INLINE VI join(VI upper, VI lower) {
  constexpr uint32_t kUpper = kWidth == 1 ? 0xaaaa : kWidth == 2 ? 0xcccc : 0xf0f0;
  if constexpr (kOdd == 0) return select_bits(both_halves(kUpper), shift_left<kWidth>(upper), lower);
  return select_bits(both_halves(kUpper), upper, shift_right<kWidth>(lower));
}

// Joins planes, the most significant first, until one vector is left for each first field: body(field,
// codes). Of the very first fields only those that part kPart has.
template <int kPlanes, int kWidth, int kFirst, int kPart, class Body>
HWY_INLINE void join_planes(const VI* planes, const Body& body) {
  if constexpr (kPlanes == 1) {
    body(std::integral_constant<int, kFirst>(), planes[0]);
  } else {
    unrolled<2>([&](auto odd) HWY_ATTR {
      if constexpr (kWidth > 1 || kParts == 1 || decltype(odd)::value == kPart) {
        VI joined[kPlanes / 2];
        unrolled<kPlanes / 2>([&](auto k) HWY_ATTR {
          joined[k()] = join<kWidth, decltype(odd)::value>(planes[2 * k()], planes[2 * k() + 1]);
        });
        join_planes<kPlanes / 2, 2 * kWidth, kFirst + decltype(odd)::value * kWidth, kPart>(joined, body);
      }
    });
  }
}

struct Channels {
  const uint16_t* listed;
  int64_t count;
};

// What a token reads of a block at one level.
struct Read {
  int level;
  Lines lines[2];  // of the halves
  Channels channels;
};

// Level after level, those that have channels.
struct Reading {
  int count = 0;
  Read reads[CpuOrder::kPlanes];
};

HWY_INLINE void fetch(const uint8_t* line) { __builtin_prefetch(line, 0, 3); }

// What add_channels() will load of a channel, by its place in the list; kLines of it are unrolled.
template <int kLines>
HWY_INLINE void fetch_channel(const Lines& lines, const Channels& channels, int64_t k) {
  const int64_t channel = channels.listed[std::min(k, channels.count - 1)];
  // No lambda: g++ takes one that only fetches for pure and drops it.
  for (int n = 0; n < kLines; ++n) fetch(lines.line[n] + channel * lines.line_stride[n]);
  for (int n = kLines; n < lines.count; ++n) fetch(lines.line[n] + channel * lines.line_stride[n]);
}

// Adds factors times values of a level's channels to the sums of half a tile. kDistinct: how many rows of
// factors its 16 sums have. Meanwhile lines of as many channels of `ahead` are fetched: memory answers after
// hundreds of instructions, and does not guess which channels are listed.
template <int kWidth, bool kByTable, int kHalf, int kPart, int kDistinct>
HWY_NOINLINE void add_channels(const Read& read, const Read& ahead, int64_t offset,
                               const int16_t* const* factors, const LevelValues& values, VI* all_sums) {
  const DI di;
  const hn::Rebind<uint32_t, DI> du;
  VI sums[kSums / kParts];
  unrolled<kSums / kParts>(
      [&](auto s) HWY_ATTR { sums[s()] = hn::Load(di, reinterpret_cast<const int32_t*>(all_sums + s())); });
  const Lines& lines = read.lines[kHalf];
  const HalvesTable<kWidth == 8 ? 6 : 4> table(values.table.data());
  const VI low_half = hn::Set(di, 0xffff);
  for (int64_t k = 0; k < read.channels.count; k += 2) {
    const int64_t a = read.channels.listed[k];
    const bool two = k + 1 < read.channels.count;
    const int64_t b = two ? read.channels.listed[k + 1] : a;
    const int64_t b_factor = two ? b : CpuOrder::kBlock;  // where factors end with a zero
    VI pairs[kWidth];
    unrolled<kWidth>([&](auto p) HWY_ATTR {
      const uint8_t* begin = lines.begin[p()] + offset;
      const VI of_a = hn::Load(di, reinterpret_cast<const int32_t*>(begin + a * lines.stride[p()]));
      const VI of_b = hn::Load(di, reinterpret_cast<const int32_t*>(begin + b * lines.stride[p()]));
      pairs[p()] =
          select_bits(low_half, hn::BitCast(di, hn::ShiftRightSame(hn::BitCast(du, of_a), lines.shift[p()])),
                      hn::ShiftLeftSame(of_b, 16 - lines.shift[p()]));
    });
    fetch_channel<(kWidth + 1) / 2>(ahead.lines[kHalf], ahead.channels, k);
    fetch_channel<(kWidth + 1) / 2>(ahead.lines[kHalf], ahead.channels, k + 1);
    const auto pair_of = [&](int row) HWY_ATTR {
      const int16_t* factor = factors[row];
      const uint32_t pair = static_cast<uint16_t>(factor[a]) |
                            static_cast<uint32_t>(static_cast<uint16_t>(factor[b_factor])) << 16;
      return hn::Set(di, static_cast<int32_t>(pair));
    };
    VI factor[2] = {pair_of(0), pair_of(1)};
    join_planes<kWidth, 1, 0, kPart>(pairs, [&](auto first, VI codes) HWY_ATTR {
      const VI upper_bytes = shift_right<8>(codes);
      unrolled<16 / kWidth>([&](auto field) HWY_ATTR {
        constexpr int kAt = decltype(first)::value + decltype(field)::value * kWidth;
        if constexpr (kParts == 1 || kAt % kParts == kPart) {
          constexpr int kBit = decltype(field)::value * kWidth;
          VI value;
          if constexpr (kByTable)
            value = table(shift_right<kBit + (kWidth == 8 ? 2 : 0)>(codes));
          else
            value = hn::And(kBit < 8 ? codes : upper_bytes, both_halves(((1u << kWidth) - 1) << kBit % 8));
          VI& sum = sums[kAt / kParts];
          if constexpr (kDistinct == 2)
            sum = add_pair_products(sum, value, factor[kAt / 8]);
          else
            sum = add_pair_products(sum, value, pair_of(kAt));
        }
      });
    });
  }
  unrolled<kSums / kParts>(
      [&](auto s) HWY_ATTR { hn::Store(sums[s()], di, reinterpret_cast<int32_t*>(all_sums + s())); });
}

template <int kHalf, int kPart, int kDistinct>
void add_level(const Read& read, const Read& ahead, int64_t offset, const int16_t* const* factors,
               const LevelValues& values, VI* sums) {
  const auto add = [&](auto width) HWY_ATTR {
    constexpr int kWidth = decltype(width)::value;
    if (values.by_table)
      add_channels<kWidth, true, kHalf, kPart, kDistinct>(read, ahead, offset, factors, values, sums);
    else
      add_channels<kWidth, false, kHalf, kPart, kDistinct>(read, ahead, offset, factors, values, sums);
  };
  switch (values.width) {
    case 1:
      return add(std::integral_constant<int, 1>());
    case 2:
      return add(std::integral_constant<int, 2>());
    case 4:
      return add(std::integral_constant<int, 4>());
    default:
      return add(std::integral_constant<int, 8>());
  }
}

// Factors of a block's channels as integers, for each group that the tile has.
struct Factors {
  static constexpr int64_t kMaxGroups = CpuOrder::kTile / CpuOrder::kLanes + 1;
  HWY_ALIGN int16_t rounded[kMaxGroups][CpuOrder::kBlock + CpuOrder::kLanes];
  float step[kMaxGroups];
  float constant[kMaxGroups];  // what biases and minima add, of these channels
  float inputs = 0;            // their sum
};

// `count` of kLanes values; zeros beyond.
HWY_INLINE VF load_part(const float* from, int64_t count) {
  if (count >= kLanes) return hn::LoadU(DF(), from);
  HWY_ALIGN float padded[kLanes] = {};
  for (int64_t i = 0; i < count; ++i) padded[i] = from[i];
  return hn::Load(DF(), padded);
}
HWY_INLINE VF load_half_part(const uint16_t* from, int64_t count) {
  if (count >= kLanes) return load_halves(from);
  HWY_ALIGN uint16_t padded[kLanes] = {};
  for (int64_t i = 0; i < count; ++i) padded[i] = from[i];
  return load_halves(padded);
}

// Factors x * scale of one group, scale and minimum null: 1 and 0.
HWY_INLINE void round_factors(const float* x, const float* biases, const uint16_t* scales,
                              const uint16_t* minima, int64_t count, float limit, int16_t* rounded,
                              float& step_of_group, float& constant) {
  const DF d;
  const hn::Rebind<int16_t, DI> dh;
  HWY_ALIGN float products[CpuOrder::kBlock + CpuOrder::kLanes];
  VI most = hn::Zero(DI());
  VF sum = hn::Zero(d);
  for (int64_t i = 0; i < count; i += kLanes) {
    const int64_t rest = count - i;
    const VF input = load_part(x + i, rest);
    const VF product = scales ? hn::Mul(input, load_half_part(scales + i, rest)) : input;
    sum = hn::MulAdd(product, load_part(biases + i, rest), sum);
    if (minima) sum = hn::MulAdd(input, load_half_part(minima + i, rest), sum);
    if (minima && i % 32 == 0) {  // and the next block's
      fetch(reinterpret_cast<const uint8_t*>(scales + count + i));
      fetch(reinterpret_cast<const uint8_t*>(minima + count + i));
    }
    most = hn::Max(most, magnitude_bits(product));
    hn::Store(product, d, products + i);
  }
  const Step step(greatest(most), limit);
  const VF inverse = hn::Set(d, step.inverse);
  for (int64_t i = 0; i < count; i += kLanes)
    hn::StoreU(hn::DemoteTo(dh, hn::NearestInt(hn::Mul(hn::Load(d, products + i), inverse))), dh,
               rounded + i);
  rounded[CpuOrder::kBlock] = 0;
  step_of_group = step.step;
  constant = hn::GetLane(hn::SumOfLanes(d, sum));
}

HWY_INLINE void round_block(const TileTask& task, const CpuOrder::Block& block, const TileWeights& weights,
                            const TokenInputs& token, Factors& to) {
  const CpuOrder& order = task.order;
  const float* x = token.x + block.channel;
  for (int64_t g = 0; g < order.tile_groups(task.tile); ++g) {
    const int64_t at = g * order.in + block.channel;
    round_factors(x, token.biases + block.channel, order.along_inputs ? nullptr : weights.scales + at,
                  order.along_inputs ? nullptr : weights.minima + at, block.channels, task.limit,
                  to.rounded[g], to.step[g], to.constant[g]);
  }
  to.inputs = 0;
  if (!order.along_inputs) return;
  VF sum = hn::Zero(DF());
  for (int64_t i = 0; i < block.channels; i += kLanes)
    sum = hn::Add(sum, load_part(x + i, block.channels - i));
  to.inputs = hn::GetLane(hn::SumOfLanes(DF(), sum));
}

Reading reading_of(const TileTask& task, int64_t at, const uint8_t* tile, const TokenInputs& token) {
  const CpuOrder& order = task.order;
  const CpuOrder::Block& block = task.blocks[static_cast<size_t>(at)];
  const int32_t* counts = token.counts + at * (CpuOrder::kPlanes + 1);
  const uint16_t* listed = token.listed + block.channel + counts[0];
  Reading reading;
  for (int level = 1; level <= order.planes; ++level) {
    if (counts[level] == 0) continue;
    Read& read = reading.reads[reading.count++];
    read.level = level;
    read.channels = {listed, counts[level]};
    listed += counts[level];
    for (int half = 0; half < 2; ++half)
      for (int p = 0; p < CpuOrder::kPlanes; ++p) {
        Lines& lines = read.lines[half];
        lines.line[p] = kNoPlane;
        lines.line_stride[p] = 0;
      }
    for (int half = 0; half < 2; ++half)
      for (int p = 0; p < CpuOrder::kPlanes; ++p) {
        Lines& lines = read.lines[half];
        const CpuOrder::Place place = p < level ? order.place(block, p, half) : CpuOrder::Place();
        lines.begin[p] = p < level ? tile + place.begin : kNoPlane;
        lines.stride[p] = place.stride;
        lines.shift[p] = place.shift;
        if (p < level && (p == 0 || lines.begin[p] != lines.begin[p - 1])) {
          lines.line[lines.count] = lines.begin[p];
          lines.line_stride[lines.count++] = place.stride;
        }
      }
  }
  return reading;
}

const Read* find_level(const Reading& reading, int level) {
  for (int r = 0; r < reading.count; ++r)
    if (reading.reads[r].level == level) return &reading.reads[r];
  return nullptr;
}

// Fetches what add_channels() has not, while it summed up `before`.
void fetch_rest(const Reading& reading, const Reading& before) {
  for (int r = 0; r < reading.count; ++r) {
    const Read& read = reading.reads[r];
    const Read* same = find_level(before, read.level);
    for (int half = 0; half < 2; ++half)
      for (int64_t k = same ? same->channels.count : 0; k < read.channels.count; ++k)
        fetch_channel<0>(read.lines[half], read.channels, k);
  }
}

// Which of a tile's groups the sums of half of it belong to, beyond the last output any.
struct HalfGroups {
  int64_t of_sum[kSums];
  bool two;  // one for the first eight sums, one for the others

  HalfGroups(const CpuOrder& order, int64_t tile, int half) : two(true) {
    const int64_t first_slot = tile * CpuOrder::kTile + half * kSums * CpuOrder::kLanes;
    for (int s = 0; s < kSums; ++s) {
      const int64_t group =
          (first_slot + s * CpuOrder::kLanes) / order.group_slots() - order.first_group(tile);
      of_sum[s] = order.along_inputs ? 0 : std::min(group, order.tile_groups(tile) - 1);
      two = two && of_sum[s] == of_sum[s / 8 * 8];
    }
  }
};

// One token and one block.
struct BlockTask {
  const TileTask& task;
  const CpuOrder::Block& block;
  const Reading &reading, &ahead;
  const Factors& factors;
  const HalfGroups* groups;
};

// The 16 sums of half a tile in lanes `offset` bytes on in the lines, or every other of them; returns what
// their units are of, null if nothing is read.
template <int kHalf, int kPart>
const LevelValues* sum_block(const BlockTask& of, int64_t offset, const int16_t* const* factors,
                             bool two_factors, VI* sums) {
  constexpr int kCount = kSums / kParts;
  for (int s = 0; s < kCount; ++s) sums[s] = hn::Zero(DI());
  const LevelValues* before = nullptr;
  for (int r = 0; r < of.reading.count; ++r) {
    const Read& read = of.reading.reads[r];
    const LevelValues& values = of.task.levels[static_cast<size_t>(read.level)];
    if (before)
      for (int s = 0; s < kCount; ++s) {
        const auto at = static_cast<size_t>(s * kParts + kPart);
        const int up = before->exponents[at] - values.exponents[at];
        sums[s] = up >= 0 ? hn::ShiftLeftSame(sums[s], up) : hn::ShiftRightSame(sums[s], -up);
      }
    before = &values;
    const Read* same = kPart == 0 && offset == 0 ? find_level(of.ahead, read.level) : nullptr;
    const Read& ahead = same ? *same : read;
    if (two_factors)
      add_level<kHalf, kPart, 2>(read, ahead, offset, factors, values, sums);
    else
      add_level<kHalf, kPart, 16>(read, ahead, offset, factors, values, sums);
  }
  return before;
}

// A block's part of half a tile for one token. y: [512], of the tile.
template <int kHalf, int kPart>
void add_block(const BlockTask& of, const TileWeights& weights, float* y) {
  const DF d;
  const HalfGroups& groups = of.groups[kHalf];
  const int16_t* rows[kSums];
  for (int s = 0; s < kSums; ++s) rows[s] = of.factors.rounded[groups.of_sum[groups.two ? s % 2 * 8 : s]];
  for (int64_t lane = 0; lane < CpuOrder::kLanes; lane += kLanes) {
    VI sums[kSums / kParts];
    const LevelValues* last_read = sum_block<kHalf, kPart>(of, lane * 4, rows, groups.two, sums);
    if (!last_read) return;
    for (int s = kPart; s < kSums; s += kParts) {
      const int64_t slot = (kHalf * kSums + s) * CpuOrder::kLanes + lane;
      const int64_t group = groups.of_sum[s];
      const VF unit = hn::Set(d, of.factors.step[group] * last_read->units[static_cast<size_t>(s)]);
      const VF constant = hn::Set(d, of.factors.constant[group]);
      const VF products = hn::MulAdd(unit, hn::ConvertTo(d, sums[s / kParts]), constant);
      VF sum = hn::LoadU(d, y + slot);
      if (of.task.order.along_inputs) {
        const int64_t at = of.block.group * CpuOrder::kTile + slot;
        sum = hn::MulAdd(load_halves(weights.scales + at), products, sum);
        sum = hn::MulAdd(load_halves(weights.minima + at), hn::Set(d, of.factors.inputs), sum);
      } else {
        sum = hn::Add(sum, products);
      }
      hn::StoreU(sum, d, y + slot);
    }
  }
}

void MultiplyTile(const TileTask& task, const TileWeights& weights, std::span<const TokenInputs> tokens,
                  float* y) {
  std::memset(y, 0, tokens.size() * CpuOrder::kTile * sizeof(float));
  Factors factors;
  Reading readings[2][kMaxTokens];
  const HalfGroups groups[] = {{task.order, task.tile, 0}, {task.order, task.tile, 1}};
  for (int64_t b = task.first_block; b < task.end_block; ++b) {
    const CpuOrder::Block& block = task.blocks[static_cast<size_t>(b)];
    Reading* now = readings[b % 2];
    Reading* next = readings[1 - b % 2];
    for (size_t t = 0; t < tokens.size(); ++t) {
      if (b == task.first_block) {
        now[t] = reading_of(task, b, weights.lines, tokens[t]);
        fetch_rest(now[t], {});
      }
      next[t] = b + 1 < task.end_block ? reading_of(task, b + 1, weights.lines, tokens[t]) : Reading();
      fetch_rest(next[t], now[t]);
      round_block(task, block, weights, tokens[t], factors);
      const BlockTask of{task, block, now[t], next[t], factors, groups};
      float* to = y + t * CpuOrder::kTile;
      unrolled<kParts>([&](auto part) HWY_ATTR {
        add_block<0, decltype(part)::value>(of, weights, to);
        add_block<1, decltype(part)::value>(of, weights, to);
      });
    }
  }
}

}  // namespace grinqh::nested::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace grinqh::nested {

HWY_EXPORT(MultiplyTile);

void multiply_tile(const TileTask& task, const TileWeights& weights, std::span<const TokenInputs> tokens,
                   float* y) {
  HWY_DYNAMIC_DISPATCH(MultiplyTile)(task, weights, tokens, y);
}

}  // namespace grinqh::nested

#endif  // HWY_ONCE
