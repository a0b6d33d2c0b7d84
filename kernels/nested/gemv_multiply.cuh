// The sums of a unit: digits plane by plane, codes of tables level by level.
#pragma once

#include "kernels/nested/gemv_ring.cuh"
#include "kernels/nested/gemv_tables.cuh"
#include "kernels/nested/gemv_token_outputs.cuh"

namespace grinqh::cuda::nested {

// Of a single token or of several.
template <class S>
using OutputsOf = std::conditional_t<S::kTokens == 1, Outputs<S>, TokenOutputs<S>>;
template <class S>
using SumsOf = std::conditional_t<S::kTokens == 1, Sums, TokenSums>;
template <class S>
using ColumnsOf = std::conditional_t<S::kTokens == 1, Columns<S>, TokenColumns<S>>;

#if __CUDA_ARCH__ >= 900
// Plane by plane, the sums raised between them. fetch(): when the ring's oldest slot has been read.
// unit: what an integer of this lane's token stands for.
template <class S, class Fetch>
__device__ void multiply_digits(const Problem& p, const Warp<S>& warp, int turn, Ring<S>& ring,
                                const Fetch& fetch, float unit, OutputsOf<S>& y) {
  if (S::kTables && warp.linear_count(p, turn) == 0) return;
  SumsOf<S> sums;
  sums.clear();
  int last_end = 0;
  for (int plane = 0; plane < p.w.order.planes; ++plane) {
    int rest = warp.count(turn, plane);
    if constexpr (S::kTables) rest = min(rest, warp.linear_count(p, turn));
    if (rest == 0) break;
    const bool listed = plane >= warp.unlisted(turn), joined = warp.joined(p, turn, plane);
    if (joined) ++plane;
    const int end = p.w.order.end[plane];
    sums.raise(end - last_end);
    last_end = end;
    const auto multiply = [&]<Rows kRows>() {
      ColumnsOf<S> columns(warp, listed);
#pragma unroll 1
      for (; rest > 0; rest -= kPlacesOf<S, kRows>) {
        ring.await();
        __syncwarp();
        multiply_slot<S, kRows>(ring.oldest(), columns, rest, plane, warp.lane, sums, fetch);
        columns.advance(kPlacesOf<S, kRows>);
      }
    };
    if (!S::kSingles || (!joined && p.w.order.bits(plane) == 2))
      multiply.template operator()<Rows::pairs>();
    else if (S::kJoins && joined)
      multiply.template operator()<Rows::joined>();
    else
      multiply.template operator()<Rows::singles>();
  }
  y.add_digits(sums, last_end, unit, warp.lane, warp.grids(turn));
}

// Channels of levels that have tables, level by level, 16 channels at a time.
template <class S, class Fetch>
__device__ void multiply_tables(const Problem& p, const Warp<S>& warp, int turn, Ring<S>& ring,
                                const Fetch& fetch, float unit, Outputs<S>& y) {
  for (int planes = p.w.tabled_planes; planes > 0; --planes) {
    const int begin = warp.count(turn, planes), end = warp.count(turn, planes - 1);
    if (begin >= end) continue;
    const int level = p.w.order.end[planes - 1];
    const NestedTable table = p.w.tables[warp.unit(turn).layer][level];
    Sums sums;
    sums.clear();
#pragma unroll 1
    for (int position = begin; position < end; position += 16) {
      const int steps = (end - position + NestedOrder::kStep - 1) / NestedOrder::kStep;
      Nibbles codes;
      for (int plane = 0; plane < planes; ++plane) {
        ring.await();
        __syncwarp();
        codes.append(ring.oldest(), S::kSingles && p.w.order.bits(plane) == 1, warp.lane);
        __syncwarp();
        fetch();
      }
      if (level <= 2)
        multiply_codes<S, 2>(codes, table, warp, position, steps, sums);
      else if (S::kSingles && level == 3)
        multiply_codes<S, 3>(codes, table, warp, position, steps, sums);
      else
        multiply_codes<S, 4>(codes, table, warp, position, steps, sums);
    }
    add_code_sums<S>(sums, warp.lane, unit, warp.grids(turn), y);
  }
}
#endif

}  // namespace grinqh::cuda::nested
