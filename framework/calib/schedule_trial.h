// Schedules tried with the model at hand: what PrecisionPolicy::plan() asks for, computed by the runtime.
#pragma once

#include <map>
#include <string>

#include "quant/quantized_model.h"
#include "quant/schedule.h"
#include "runtime/transformer.h"

namespace grinqh {

// Named vectors that outlive the process, or that do not.
class ValueStore {
 public:
  virtual ~ValueStore() = default;
  virtual std::optional<std::vector<double>> load(std::string_view name) = 0;
  virtual void save(std::string_view name, std::span<const double> values) = 0;
};

class MemoryStore final : public ValueStore {
 public:
  std::optional<std::vector<double>> load(std::string_view name) override;
  void save(std::string_view name, std::span<const double> values) override;

 private:
  std::map<std::string, std::vector<double>, std::less<>> values_;
};

class ModelTrial final : public ScheduleTrial {
 public:
  // windows: [count, context]. Everything must outlive the trial.
  ModelTrial(const Transformer& transformer, const QuantizedModel& quantized, const PrecisionPolicy& policy,
             Level prefill_level, Matrix<const int32_t> windows, ValueStore& store)
      : transformer_(transformer),
        quantized_(quantized),
        policy_(policy),
        prefill_level_(prefill_level),
        windows_(windows),
        store_(store) {}

  Matrix<const int32_t> windows() const override { return windows_; }
  std::vector<double> losses(std::span<const Tokens> prompts, std::span<const Tokens> continuations) override;
  std::vector<double> divergences(std::span<const Tokens> prompts,
                                  std::span<const Tokens> continuations) override;
  std::vector<Tokens> continuations(std::span<const Tokens> prompts, int64_t count, Writer writer) override;
  void observe(std::span<const Tokens> prompts,
               const std::function<void(size_t, const Prompt&)>& observer) override;
  std::optional<std::vector<double>> load(std::string_view name) override { return store_.load(name); }
  void save(std::string_view name, std::span<const double> values) override { store_.save(name, values); }

 private:
  enum class Measure : uint8_t { likelihood, divergence };
  std::vector<double> measure(std::span<const Tokens> prompts, std::span<const Tokens> continuations,
                              Measure measure) const;

  const Transformer& transformer_;
  const QuantizedModel& quantized_;
  const PrecisionPolicy& policy_;
  Level prefill_level_;
  Matrix<const int32_t> windows_;
  ValueStore& store_;
};

}  // namespace grinqh
