// What one call of the forward pass processes: rows of tokens that belong to one or more sequences.
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor.h"
#include "quant/precision.h"

namespace grinqh {

struct SequenceRows {
  int64_t first_row = 0;
  int64_t count = 0;  // consecutive tokens of the sequence
  int64_t past = 0;   // tokens before them, held by the cache
};

struct Batch {
  std::vector<int32_t> tokens;
  std::vector<SequenceRows> sequences;
  std::vector<Step> steps;  // of every row

  int64_t rows() const { return static_cast<int64_t>(tokens.size()); }

  // Whole windows, each a sequence of its own: the first `prefill_tokens` of a window in phase prefill, the
  // rest as decoded tokens. windows: [count, context].
  static Batch of_windows(Matrix<const int32_t> windows, int64_t prefill_tokens);
};

// Keys and values of every block for a set of sequences that grow together.
class KvCache {
 public:
  KvCache(int64_t blocks, int64_t sequences, int64_t capacity, int64_t kv_width)
      : KvCache(blocks, sequences, capacity,
                Tensor(MatrixBuffer<float>(2 * blocks * sequences * capacity, kv_width))) {}
  // storage: [2 blocks sequences capacity, kv_width], on any device.
  KvCache(int64_t blocks, int64_t sequences, int64_t capacity, Tensor storage);

  int64_t capacity() const { return capacity_; }
  // [capacity, kv_width] of one sequence.
  Activations keys(int64_t block, size_t sequence) const { return part(0, block, sequence); }
  Activations values(int64_t block, size_t sequence) const { return part(1, block, sequence); }

 private:
  Activations part(int64_t which, int64_t block, size_t sequence) const;
  int64_t sequences_, capacity_;
  Tensor storage_;
};

}  // namespace grinqh
