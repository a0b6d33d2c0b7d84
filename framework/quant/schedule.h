// Schedules: the level of a whole token as a function of how far its sequence has been decoded, of the
// sequence's prompt, or of the predictions so far; and the trials by which a policy finds one.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/matrix.h"
#include "quant/precision.h"

namespace grinqh {

// What a decision may look at besides Step::index. It says in which order tokens must be computed: with
// `prompt` a sequence's decoded tokens are known together once its prompt is processed, with `logits` each
// waits for the one before it.
enum class ScheduleInput : uint8_t { nothing, prompt, logits };

// A processed prompt: its tokens, and the last block's keys (rotated) and values. keys, values: [tokens,
// kv_heads * head_dim].
struct Prompt {
  std::span<const int32_t> tokens;
  Matrix<const float> keys, values;
  int64_t kv_heads = 1;
};

// The levels of one sequence.
class SequenceSchedule {
 public:
  virtual ~SequenceSchedule() = default;
  // Called for decode steps 0, 1, 2, ... in turn. logits: the prediction of the token of this step, that is
  // the output of the step before (of the prompt, at step 0); empty unless the input is `logits`.
  virtual Level level(int32_t index, std::span<const float> logits) = 0;
};

// Levels that only go down: levels[k] holds up to decode step drops[k] - 1, and the last one from then on.
struct Chain {
  std::vector<Level> levels;   // descending
  std::vector<int64_t> drops;  // ascending, one fewer than levels

  Level at(int64_t index) const {
    size_t k = 0;
    while (k < drops.size() && index >= drops[k]) ++k;
    return levels[k];
  }
  // Mean level of decode steps [first, end).
  double mean_bits(int64_t first, int64_t end) const;
};

// Where a policy wants to try its schedules: windows spread over a text.
struct ValidationText {
  std::string text;     // a path; empty: the calibration text
  int64_t windows = 0;  // 0: nothing is tried
  int64_t context = 0;
};

using Tokens = std::vector<int32_t>;

// Continuations of prompts, under the policy's decisions as they are at each call.
class ScheduleTrial {
 public:
  virtual ~ScheduleTrial() = default;
  virtual Matrix<const int32_t> windows() const = 0;  // of ValidationText

  // Mean negative log-likelihood (nats a token) of each continuation after its prompt, all tokens given.
  virtual std::vector<double> losses(std::span<const Tokens> prompts,
                                     std::span<const Tokens> continuations) = 0;
  // In place of the likelihood of what came, the mean KL divergence (nats a token) of what was predicted from
  // the float model's predictions: it tells sequences apart on far fewer tokens.
  virtual std::vector<double> divergences(std::span<const Tokens> prompts,
                                          std::span<const Tokens> continuations) = 0;
  // Greedy continuations of at most `count` tokens, ended before an end-of-text token: by the quantized model
  // under the policy, or by the float model.
  enum class Writer : uint8_t { quantized, floating };
  virtual std::vector<Tokens> continuations(std::span<const Tokens> prompts, int64_t count,
                                            Writer writer) = 0;
  // Shows the prompts, processed as at run time, in their order.
  virtual void observe(std::span<const Tokens> prompts,
                       const std::function<void(size_t, const Prompt&)>& observer) = 0;

  // Results of long computations survive the process: kept under a name beside the other cached stages, for
  // this model, text and quantization. `name` says all else that they depend on.
  virtual std::optional<std::vector<double>> load(std::string_view name) = 0;
  virtual void save(std::string_view name, std::span<const double> values) = 0;
};

}  // namespace grinqh
