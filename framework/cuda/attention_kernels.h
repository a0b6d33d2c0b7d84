// The kernels behind attention(), by type of the matrices. Tiles of queries, each of one head, are blocks;
// a block goes over the tiles of keys up to its diagonal with a running softmax (Milakov and Gimelshein,
// 1805.02867; Dao et al., 2205.14135).
#pragma once

#include "cuda/attention.h"

namespace grinqh::cuda {

struct AttentionTask {
  AttentionShape shape;
  ConstView q;
  const SequenceSpan* sequences;
  int64_t count, longest, kv_stride;
  View out;
};

void attention_f32(const AttentionTask& task, Stream stream);
// Tensor cores by mma.sync: any GPU since sm_80.
void attention_bf16(const AttentionTask& task, Stream stream);
// Tensor cores by wgmma, on the GPUs of compute capability 9.0; head_dim 64 and 128. False, with nothing
// launched, where it does not apply.
bool attention_hopper(const AttentionTask& task, Stream stream);

// Heads that share keys run side by side, and a sequence's longest tiles first, so that the caches serve a
// sequence's keys and the launch ends with little work.
template <class Launch>
void for_sequence_ranges(const AttentionTask& task, int64_t tile, const Launch& launch) {
  constexpr int64_t kMost = 65535;  // of the grid's third dimension
  for (int64_t first = 0; first < task.count; first += kMost) {
    const int64_t here = task.count - first < kMost ? task.count - first : kMost;
    launch(dim3(static_cast<unsigned>(task.shape.heads),
                static_cast<unsigned>((task.longest + tile - 1) / tile), static_cast<unsigned>(here)),
           task.sequences + first);
  }
}

}  // namespace grinqh::cuda
