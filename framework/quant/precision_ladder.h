// Precisions of a chain that are graded: each is the budget of a policy of its own, and a token is served by
// the policy of its precision. With it a schedule over tokens runs on top of any policy over channels.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "quant/precision_policy.h"

namespace grinqh {

class PrecisionLadder {
 public:
  // Policies `name` with option `bits` at each precision and the other options at their defaults. BadInput if
  // there is no such policy, or none with such a budget.
  PrecisionLadder(std::string_view name, std::span<const Level> precisions);

  // The stages of PrecisionPolicy, for every rung.
  CollectorNames needs() const;
  void prepare(const LinearTask& task, const QuantizedLinear& quantized);
  void allot();
  bool tunes() const;
  // One rung after another: choose() serves all tokens by the one that is tuned.
  void tune(BlockTrial& trial);
  Json findings() const;  // of each rung, under its precision; null: none has any

  bool looks_at_inputs() const;
  // As PrecisionPolicy's, a grading a rung; none if a rung chooses by itself.
  std::vector<const ChannelGrading*> gradings(const std::string& layer) const;
  const ChannelGrading* grading_of(const std::string& layer, const Step& step, Level precision) const;
  // precisions: [tokens], each one of the constructor's.
  Precision choose(const std::string& layer, std::span<const Step> steps, std::span<const Level> precisions,
                   Matrix<const float> x, Matrix<Level> scratch) const;

 private:
  struct Rung {
    Level precision;
    std::unique_ptr<PrecisionPolicy> policy;
  };
  const PrecisionPolicy& serving(Level precision) const;

  std::vector<Rung> rungs_;
  const PrecisionPolicy* tuned_ = nullptr;
};

}  // namespace grinqh
