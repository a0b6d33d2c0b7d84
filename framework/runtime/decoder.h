// Decoding on a cache that prompts have filled: each step one token of every sequence, drawn from what the
// step before predicted. Devices have decoders of their own; the one of this file runs the transformer step
// by step.
#pragma once

#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "quant/quantized_linear.h"
#include "runtime/batch.h"
#include "runtime/linear_executor.h"

namespace grinqh {

class Transformer;

struct Sampling {
  double temperature = 0;  // 0: greedy
  uint64_t seed = 0;
  uint64_t first_stream = 0;  // sequence s draws from stream first_stream + s of the seed
};

struct DecodePlan {
  int64_t sequences = 1;
  int64_t capacity = 0;  // tokens of a sequence, its prompt among them
  // [vocab, hidden] in place of the checkpoint's head, read at its full level; null: the checkpoint's. A
  // device keeps it in its own order by its address: it must outlive the transformer.
  const QuantizedLinear* head = nullptr;
  bool counts_bits = false;  // see Decoder::count_bits()
};

// Bytes that a step cannot do without.
struct DecodeBytes {
  int64_t weights = 0;  // of all blocks' linear layers at what was read of them, metadata and biases included
  int64_t cache = 0;    // keys and values before the step's tokens
  int64_t head = 0;
  int64_t total() const { return weights + cache + head; }
};

// Seconds of a step by what takes them; what a decoder cannot tell apart stands in `other`.
struct DecodeSplit {
  double products = 0, attention = 0, head = 0, other = 0;
  double total() const { return products + attention + head + other; }
};

class Decoder {
 public:
  virtual ~Decoder() = default;
  // For the record: "layer by layer", or a device's own way.
  virtual std::string_view name() const = 0;
  // Of plan.sequences sequences: prompts run into it (Transformer::run).
  virtual KvCache& cache() = 0;

  // Decode steps 0, 1, ... follow: sequence s goes on with tokens[s] at positions[s], all before it being in
  // the cache. draws: those that its stream of chance has served already.
  virtual void begin(std::span<const int32_t> tokens, std::span<const int32_t> positions,
                     const Sampling& sampling, uint64_t draws = 0) = 0;
  // Whether the steps to come count what they read, for traffic() and bytes(): it costs time where tokens
  // choose levels for themselves, and is free elsewhere.
  virtual void count_bits(bool on) { (void)on; }
  // The next step. scheduled: Step::scheduled of every sequence; empty: nothing is. Need not wait for the
  // device, but no more than most_ahead() steps may be unread.
  virtual void advance(std::span<const Level> scheduled = {}) = 0;
  // The token of every sequence that the oldest unread step has drawn; waits for it.
  virtual std::vector<int32_t> read() = 0;
  virtual int64_t most_ahead() const { return 1; }

  // Of the step that was read last, before the next is begun: what its tokens were drawn from. [sequences,
  // vocab]
  virtual void logits(Matrix<float> to) = 0;
  // Bits of quantized layers that each sequence read in that step.
  virtual const RowTraffic& traffic() = 0;
  // Of that step.
  virtual DecodeBytes bytes() = 0;
  // Takes one step more, timed part by part: slower as a whole than a step by itself.
  virtual DecodeSplit split() = 0;
};

// Keys and values of `tokens` tokens that no prompt made, for measuring: random, of about the size of
// trained ones'.
void fill_cache(const Transformer& transformer, KvCache& cache, const DecodePlan& plan, int64_t tokens);

// By Transformer::run and `linears`, which outlive it.
std::unique_ptr<Decoder> make_stepwise_decoder(const Transformer& transformer, LinearExecutor& linears,
                                               const DecodePlan& plan);

}  // namespace grinqh
