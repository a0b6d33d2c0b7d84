#include "runtime/batch.h"

#include <algorithm>

namespace grinqh {

Batch Batch::of_windows(Matrix<const int32_t> windows, int64_t prefill_tokens) {
  Batch batch;
  for (int64_t w = 0; w < windows.rows; ++w) {
    batch.sequences.push_back({w * windows.cols, windows.cols, 0});
    batch.tokens.insert(batch.tokens.end(), windows.row(w), windows.row(w) + windows.cols);
    for (int64_t t = 0; t < windows.cols; ++t) {
      const bool decode = t >= prefill_tokens;
      batch.steps.push_back({decode ? Phase::decode : Phase::prefill, static_cast<int32_t>(t),
                             static_cast<int32_t>(decode ? t - prefill_tokens : 0)});
    }
  }
  return batch;
}

KvCache::KvCache(int64_t blocks, int64_t sequences, int64_t capacity, Tensor storage)
    : sequences_(sequences), capacity_(capacity), storage_(std::move(storage)) {
  check(storage_.rows() == 2 * blocks * sequences * capacity, "storage of a cache");
}

Activations KvCache::part(int64_t which, int64_t block, size_t sequence) const {
  const int64_t index = (block * sequences_ + static_cast<int64_t>(sequence)) * 2 + which;
  return storage_.view().rows_between(index * capacity_, (index + 1) * capacity_);
}

}  // namespace grinqh
