// Evaluators score a language model on windows of text; they never see how it was quantized. Registered by
// name like every plugin (`kind` of an evaluation).
#pragma once

#include "core/metric_sink.h"
#include "core/registry.h"
#include "eval/windows.h"
#include "runtime/language_model.h"

namespace grinqh {

// Final hidden states of the float model on the same windows, kept from one computation (float logits are
// features times head: the features are vocab / hidden times smaller and give the same logits).
class ReferenceFeatures {
 public:
  virtual ~ReferenceFeatures() = default;
  // Rows of windows [first, first + count). out: [count * context, hidden]
  virtual void read(int64_t first_window, int64_t count, Matrix<float> out) const = 0;
  // Whose head they belong to: a transformed subject has another.
  virtual const Transformer& transformer() const = 0;
};

struct EvaluationTask {
  LanguageModel& subject;
  const ReferenceFeatures* reference;  // null: no comparison with the float model
  const Windows& windows;
  int64_t prefill_tokens;  // of each window; its context: everything is prefill
  std::string label;       // for the progress line
};

class Evaluator {
 public:
  static constexpr std::string_view kind = "evaluator";
  virtual ~Evaluator() = default;
  virtual void run(const EvaluationTask& task, MetricSink& sink) const = 0;
};

}  // namespace grinqh
