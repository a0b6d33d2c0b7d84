// A small attention classifier of prompts by the keys and values of one block: learned queries attend over
// the prompt, and a two-layer perceptron ranks the classes (Chen et al., PMPD, 2410.13461, section on the
// learned scheduler; shapes from a description of it).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/adam.h"
#include "core/matrix.h"

namespace grinqh {

// What the classifier sees of a prompt: keys and values averaged over heads. [tokens, dim] each
struct PromptFeatures {
  MatrixBuffer<float> keys, values;

  // keys, values: [tokens, heads * dim].
  static PromptFeatures of(Matrix<const float> keys, Matrix<const float> values, int64_t heads);
};

struct ClassifierShape {
  int64_t heads = 1, dim = 1, classes = 2;

  int64_t width() const { return heads * dim; }
  int64_t queries() const { return heads * heads; }
  // Queries, layer norm's scale and shift, two linear layers with bias.
  int64_t parameters() const;
};

class PromptClassifier {
 public:
  PromptClassifier(ClassifierShape shape, uint64_t seed);
  PromptClassifier(ClassifierShape shape, std::vector<double> parameters);

  const ClassifierShape& shape() const { return shape_; }
  std::vector<double>& parameters() { return parameters_; }
  const std::vector<double>& parameters() const { return parameters_; }

  std::vector<double> logits(const PromptFeatures& prompt) const;
  int64_t classify(const PromptFeatures& prompt) const;

  // Cross-entropy of `label`; adds its gradient to `gradient` [parameters] unless that is empty. keep:
  // [queries, tokens], what each attention weight is multiplied by (dropout); empty: nothing.
  double loss(const PromptFeatures& prompt, int64_t label, std::span<double> gradient,
              std::span<const double> keep = {}) const;

 private:
  struct Pass;  // what the forward pass leaves for the backward one
  Pass forward(const PromptFeatures& prompt, std::span<const double> keep) const;

  ClassifierShape shape_;
  std::vector<double> parameters_;
};

struct LabelledPrompt {
  PromptFeatures features;
  int64_t label = 0;
};

struct TrainingOptions {
  int64_t epochs = 10;
  int64_t batch = 32;  // prompts to one step
  double dropout = 0.1;
  AdamOptions adam;
  uint64_t seed = 0;
};

// Trains by epochs. The first tenth of the prompts is held out: what is kept is the epoch with the least loss
// there. Of the others every class is repeated until it is as frequent as the most frequent one.
class ClassifierTraining {
 public:
  ClassifierTraining(ClassifierShape shape, std::span<const LabelledPrompt> prompts,
                     const TrainingOptions& options);

  int64_t epochs_done() const { return epoch_; }
  bool finished() const { return epoch_ >= options_.epochs; }
  void run_epoch();
  double held_out_loss() const { return best_loss_; }  // of the kept epoch
  PromptClassifier best() const { return {current_.shape(), best_}; }

  // Everything that later epochs depend on: restored into a training of the same prompts and options, it
  // continues to the same bits.
  std::vector<double> state() const;
  void restore(std::span<const double> state);

 private:
  std::vector<size_t> balanced_order() const;

  std::span<const LabelledPrompt> prompts_;
  TrainingOptions options_;
  size_t held_out_;
  PromptClassifier current_;
  Adam adam_;
  int64_t epoch_ = 0;
  std::vector<double> best_;
  double best_loss_;
};

}  // namespace grinqh
