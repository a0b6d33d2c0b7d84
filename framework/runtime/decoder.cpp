#include "runtime/decoder.h"

#include <algorithm>
#include <chrono>
#include <deque>

#include "core/error.h"
#include "core/rng.h"
#include "runtime/generate.h"
#include "runtime/transformer.h"

namespace grinqh {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// Times layers one by one, which keeps a device from running ahead.
class TimedLinears final : public LinearExecutor {
 public:
  TimedLinears(const Transformer& transformer, LinearExecutor& inner)
      : transformer_(transformer), inner_(inner) {}
  void begin_batch(std::span<const Step> steps) override { inner_.begin_batch(steps); }
  void run(const LinearWeights& linear, ConstActivations x, Activations y) override {
    transformer_.synchronize();
    const Clock::time_point begin = Clock::now();
    inner_.run(linear, x, y);
    transformer_.synchronize();
    seconds += seconds_since(begin);
  }
  const PrecisionPolicy* policy() const override { return inner_.policy(); }
  double seconds = 0;

 private:
  const Transformer& transformer_;
  LinearExecutor& inner_;
};

class StepwiseDecoder final : public Decoder {
 public:
  StepwiseDecoder(const Transformer& transformer, LinearExecutor& linears, const DecodePlan& plan)
      : transformer_(transformer),
        linears_(linears),
        plan_(plan),
        cache_(transformer.make_cache(plan.sequences, plan.capacity)),
        logits_(plan.sequences, transformer.vocab()) {}

  std::string_view name() const override { return "layer by layer"; }
  KvCache& cache() override { return cache_; }

  void begin(std::span<const int32_t> tokens, std::span<const int32_t> positions, const Sampling& sampling,
             uint64_t draws) override {
    check(std::ssize(tokens) == plan_.sequences && std::ssize(positions) == plan_.sequences,
          "a token and a position of every sequence");
    tokens_.assign(tokens.begin(), tokens.end());
    positions_.assign(positions.begin(), positions.end());
    sampling_ = sampling;
    index_ = 0;
    unread_.clear();
    random_.clear();
    for (size_t s = 0; s < tokens.size(); ++s) {
      random_.emplace_back(sampling.seed, sampling.first_stream + s);
      random_.back().skip(draws);
    }
  }

  void advance(std::span<const Level> scheduled) override {
    check(std::ssize(unread_) < most_ahead(), "steps that nobody reads");
    step(linears_, scheduled);
  }

  std::vector<int32_t> read() override {
    check(!unread_.empty(), "a step to read");
    std::vector<int32_t> tokens = std::move(unread_.front());
    unread_.pop_front();
    return tokens;
  }

  void logits(Matrix<float> to) override {
    for (int64_t s = 0; s < plan_.sequences; ++s)
      std::ranges::copy(logits_.view().row_span(s), to.row_span(s).begin());
  }

  const RowTraffic& traffic() override {
    if (const auto* quantized = dynamic_cast<const QuantizedExecutor*>(&linears_))
      return quantized->traffic();
    nothing_.codes.assign(static_cast<size_t>(plan_.sequences), 0);
    nothing_.total = nothing_.codes;
    return nothing_;
  }

  DecodeBytes bytes() override {
    DecodeBytes bytes;
    for (const BlockWeights& block : transformer_.model().blocks)
      for (const LinearWeights* linear :
           {&block.q, &block.k, &block.v, &block.o, &block.gate, &block.up, &block.down})
        if (!linears_.replaces(linear->id)) bytes.weights += stored(linear->weight) + stored(linear->bias);
    // A weight that one sequence reads is there for all of them.
    bytes.weights += std::ranges::max(traffic().total) / 8;
    const AttentionShape& shape = transformer_.attention_shape();
    const int64_t past = std::max<int64_t>(0, last_past());
    bytes.cache =
        past * 2 * transformer_.blocks() * shape.kv_heads * shape.head_dim * size_of(cache_.keys(0, 0).type);
    bytes.head = plan_.head ? plan_.head->stored_bits().total() / 8 : stored(transformer_.model().head);
    return bytes;
  }

  DecodeSplit split() override {
    DecodeSplit split;
    TimedLinears timed(transformer_, linears_);
    transformer_.synchronize();
    const Clock::time_point begin = Clock::now();
    step(timed, last_scheduled_);
    read();
    split.products = timed.seconds;
    split.head = head_seconds_;
    split.other = seconds_since(begin) - split.products - split.head;
    return split;
  }

 private:
  // As the device, or the CPU, keeps a tensor of the checkpoint.
  int64_t stored(const TensorView& tensor) const {
    if (tensor.empty()) return 0;
    const bool on_cpu = transformer_.device().device == Device::cpu;
    const bool single = transformer_.device().arithmetic == Arithmetic::float32;
    const DType type = on_cpu ? tensor.dtype : single ? DType::f32 : DType::bf16;
    return tensor.elements() * size_of(type);
  }
  int64_t last_past() const {
    int64_t sum = 0;
    for (const int32_t position : positions_) sum += position - 1;
    return sum;
  }

  void step(LinearExecutor& linears, std::span<const Level> scheduled) {
    Batch batch;
    batch.tokens = tokens_;
    for (size_t s = 0; s < tokens_.size(); ++s) {
      batch.sequences.push_back({static_cast<int64_t>(s), 1, positions_[s]});
      batch.steps.push_back(
          {Phase::decode, positions_[s], index_, scheduled.empty() ? kFullLevel : scheduled[s]});
    }
    last_scheduled_.assign(scheduled.begin(), scheduled.end());
    const Tensor features = transformer_.run(batch, linears, &cache_);
    transformer_.synchronize();
    const Clock::time_point begin = Clock::now();
    if (plan_.head)
      find_kernel(plan_.head->layout(), Device::cpu)
          .forward(*plan_.head, {transformer_.to_host(features), logits_, {plan_.head->full_level(), {}}});
    else
      transformer_.head(features, logits_);
    head_seconds_ = seconds_since(begin);
    for (size_t s = 0; s < tokens_.size(); ++s) {
      const std::span<const float> scores = logits_.view().row_span(static_cast<int64_t>(s));
      tokens_[s] = sampling_.temperature > 0 ? sample(scores, sampling_.temperature, random_[s].uniform())
                                             : argmax(scores);
      ++positions_[s];
    }
    ++index_;
    unread_.push_back(tokens_);
  }

  const Transformer& transformer_;
  LinearExecutor& linears_;
  DecodePlan plan_;
  KvCache cache_;
  MatrixBuffer<float> logits_;
  Sampling sampling_;
  std::vector<Rng> random_;
  std::vector<int32_t> tokens_, positions_;  // of the step to come
  std::vector<Level> last_scheduled_;
  int32_t index_ = 0;
  double head_seconds_ = 0;
  std::deque<std::vector<int32_t>> unread_;
  RowTraffic nothing_;
};

}  // namespace

void fill_cache(const Transformer& transformer, KvCache& cache, const DecodePlan& plan, int64_t tokens) {
  check(tokens <= plan.capacity, "cache capacity");
  const AttentionShape& shape = transformer.attention_shape();
  MatrixBuffer<float> rows(tokens, shape.kv_heads * shape.head_dim);
  Rng random(1);
  for (int64_t i = 0; i < rows.size(); ++i) rows.data()[i] = static_cast<float>(random.normal());
  for (int64_t block = 0; block < transformer.blocks(); ++block)
    for (int64_t s = 0; s < plan.sequences; ++s) {
      transformer.copy(rows, cache.keys(block, static_cast<size_t>(s)).rows_between(0, tokens));
      transformer.copy(rows, cache.values(block, static_cast<size_t>(s)).rows_between(0, tokens));
    }
}

std::unique_ptr<Decoder> make_stepwise_decoder(const Transformer& transformer, LinearExecutor& linears,
                                               const DecodePlan& plan) {
  check(plan.sequences > 0 && plan.capacity > 0, "sequences and their capacity");
  return std::make_unique<StepwiseDecoder>(transformer, linears, plan);
}

}  // namespace grinqh
