// From warps' sums of tiles to outputs: over the warps of a block in shared memory, over the blocks that
// share a tile through device memory. All in an order that does not depend on who comes first.
//
// The block in which a tile begins adds up what the others have of it, and waits for them. They come: a
// launch has at most one block a multiprocessor, the next launch's begin after all of it, and no block waits
// before it has sent what others wait for.
#pragma once

#include "kernels/nested/gemv_exchange.cuh"
#include "kernels/nested/gemv_warp.cuh"

namespace grinqh::cuda::nested {

// What finish_tiles() goes by, brought to shared memory before the inputs are there: a launch's parameters
// come from far when they are first read.
struct BlockWork {
  GemvOutput output;
  float* exchange;  // of this block
  int tokens, count;
};
template <class S>
struct BlockView {
  uint8_t* shared;

  __device__ BlockWork& work() const { return *reinterpret_cast<BlockWork*>(shared + BlockMemory<S>::kWork); }
  __device__ NestedSums* sums() const {
    return reinterpret_cast<NestedSums*>(shared + BlockMemory<S>::kSums);
  }
  // Where a warp leaves the sums of the block's tile i, if it goes on to the next.
  __device__ uint8_t* passed(const Problem& p, int i) const { return passed(p.schedule.sums_of_block, i); }
  __device__ uint8_t* passed(int count, int i) const {
    return shared + BlockMemory<S>::passed(count) + i * BlockMemory<S>::kSumBytes;
  }
  // Where a team leaves what it has received of a token.
  __device__ float* received(int team) const {
    return reinterpret_cast<float*>(shared + team * WarpMemory<S>::kBytes + BlockMemory<S>::kSumBytes);
  }

  // All threads, before a barrier.
  __device__ void prepare(const Problem& p) const {
    static_assert(sizeof(BlockWork) <= BlockMemory<S>::kWorkBytes);
    constexpr int kPieces = sizeof(NestedSums) / 16;
    const int count = p.schedule.sums_of_block, thread = static_cast<int>(threadIdx.x);
    float* const exchange = p.schedule.exchange + int64_t{blockIdx.x} * kExchanged;
    if (thread < count * kPieces) {
      const int4 piece = reinterpret_cast<const int4*>(p.schedule.sums + int64_t{blockIdx.x} * count)[thread];
      reinterpret_cast<int4*>(sums())[thread] = piece;
      if (thread % kPieces == 0) bring_exchange(exchange, piece.z);
    }
    if (thread == S::kThreads - 1) work() = {p.output, exchange, p.tokens, count};
  }
  static constexpr int kExchanged = NestedSchedule::kMostTokens * NestedOrder::kTile;

 private:
  // What others will leave, to the second cache: who looks there first would wait for memory.
  __device__ static void bring_exchange(const float* exchange, int others) {
    constexpr int kLine = 32;  // floats
#pragma unroll 1
    for (int other = 1; other <= others; ++other)
#pragma unroll 1
      for (int at = 0; at < S::kTokens * NestedOrder::kTile; at += kLine)
        asm volatile("prefetch.global.L2 [%0];" ::"l"(exchange + other * kExchanged + at) : "memory");
  }
};

// Of outputs `output` .. of a token and the block's tile i, over its warps: sums of a warp's last tile lie in
// its ring.
template <class S>
__device__ inline Four sum_of_warps(const BlockView<S>& block, int i, int token, int output) {
  const NestedSums& tile = block.sums()[i];
  const int at = (token * NestedOrder::kTile + output) * 4;
  Four sum;
#pragma unroll
  for (int w = 0; w < S::kWarps; ++w)
    if ((tile.warps >> w & 1) != 0)
      sum.add(*reinterpret_cast<const float4*>(block.shared + w * WarpMemory<S>::kBytes + at));
  if (S::kMany && tile.passed != 0)
    sum.add(*reinterpret_cast<const float4*>(block.passed(block.work().count, i) + at));
  return sum;
}

// What a block's warps have left becomes outputs. All threads, after a barrier. Teams of threads have a tile
// and a token each; what other blocks send of the last tile is received by the teams of a token, the last of
// which adds it up.
template <class S>
__device__ void finish_tiles(const BlockView<S>& block) {
  constexpr int kTile = NestedOrder::kTile, kTeam = kTile / kTogether, kTeams = S::kThreads / kTeam,
                kTeamsOfToken = kTeams / S::kTokens;
  const int team = threadIdx.x / kTeam, output = threadIdx.x % kTeam * kTogether;
  const BlockWork& work = block.work();
  const auto values_of = [&](int i, const Place& place) {
    Four values = added_to(work.output, place);
    values.add(sum_of_warps(block, i, place.token, output).vector());
    return values;
  };
  const auto place_of = [&](const NestedSums& tile, int token) {
    return Place{token, tile.output + output, tile.outputs - output};
  };
  const int tiles = block.sums()->tiles, tokens = S::kTokens == 1 ? 1 : work.tokens;
#pragma unroll 1
  for (int item = team; item < tiles * tokens; item += kTeams) {
    const int i = item / tokens, token = item - i * tokens;
    const NestedSums& tile = block.sums()[i];
    if (tile.others > 0) continue;
    const Place place = place_of(tile, token);
    if (tile.others == NestedSums::kSent)
      send(work.exchange + token * kTile + output, sum_of_warps(block, i, token, output));
    else
      put_four(work.output, place, values_of(i, place));
  }
  // Tiles that others go on with are the last of their blocks.
  if (tiles == 0 || block.sums()[tiles - 1].others <= 0) return;
  const NestedSums& tile = block.sums()[tiles - 1];
  const int token = team / kTeamsOfToken, of_token = team % kTeamsOfToken;
  // The team that is least likely to have anything to receive.
  const bool exists = token < tokens, adds = exists && of_token == kTeamsOfToken - 1;
  const Place place = place_of(tile, token);
  Four values;
  if (adds) values = values_of(tiles - 1, place);
  const bool receives = exists && of_token < tile.others;
  Four others;
  if (receives)
    others = receive_all<kTeamsOfToken, BlockView<S>::kExchanged>(
        work.exchange + BlockView<S>::kExchanged + token * kTile + output, of_token, tile.others);
  if constexpr (kTeamsOfToken == 1) {
    values.add(others.vector());
  } else {
    if (receives) *reinterpret_cast<float4*>(block.received(team) + output) = others.vector();
    __syncthreads();
    if (adds)
      for (int from = 0; from < min(tile.others, kTeamsOfToken); ++from)
        values.add(*reinterpret_cast<const float4*>(block.received(team - of_token + from) + output));
  }
  if (adds) put_four(work.output, place, values);
}

}  // namespace grinqh::cuda::nested
