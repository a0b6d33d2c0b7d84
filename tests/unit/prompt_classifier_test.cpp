#include "quant/prompt_classifier.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/rouge.h"
#include "numbers.h"

namespace grinqh {
namespace {

PromptFeatures random_prompt(int64_t tokens, int64_t dim, uint64_t seed) {
  return {testing::random_matrix(tokens, dim, seed), testing::random_matrix(tokens, dim, seed + 1000)};
}

TEST(PromptClassifier, AveragesHeads) {
  const std::vector<float> x{1, 2, 3, 5, 8, -2};  // one token, three heads of two
  const PromptFeatures features = PromptFeatures::of({x.data(), 1, 6}, {x.data(), 1, 6}, 3);
  EXPECT_FLOAT_EQ(features.keys.row(0)[0], 4.0f);
  EXPECT_FLOAT_EQ(features.values.row(0)[1], 5.0f / 3);
}

// The paper's models: 4 classes, heads x dim of Vicuna-7B and MobileLLaMA-1.4B.
TEST(PromptClassifier, HasAsManyParametersAsThePapers) {
  EXPECT_NEAR(static_cast<double>((ClassifierShape{32, 128, 4}).parameters()), 16.94e6, 0.01e6);
  EXPECT_NEAR(static_cast<double>((ClassifierShape{16, 128, 4}).parameters()), 4.24e6, 0.01e6);
}

TEST(PromptClassifier, GradientIsThatOfFiniteDifferences) {
  const ClassifierShape shape{2, 3, 4};
  const PromptFeatures prompt = random_prompt(5, 3, 1);
  PromptClassifier classifier(shape, 7);
  Rng rng(3);
  for (double& p : classifier.parameters()) p += 0.1 * rng.normal();
  std::vector<double> keep(4 * 5, 1.25);
  keep[3] = keep[11] = 0;
  for (const bool dropout : {false, true}) {
    const std::span<const double> factors =
        dropout ? std::span<const double>(keep) : std::span<const double>();
    std::vector<double> gradient(classifier.parameters().size(), 0.0);
    classifier.loss(prompt, 2, gradient, factors);
    double norm = 0;
    for (size_t i = 0; i < gradient.size(); ++i) {
      constexpr double kStep = 1e-5;
      double& p = classifier.parameters()[i];
      const double at = p;
      p = at + kStep;
      const double above = classifier.loss(prompt, 2, {}, factors);
      p = at - kStep;
      const double below = classifier.loss(prompt, 2, {}, factors);
      p = at;
      EXPECT_NEAR(gradient[i], (above - below) / (2 * kStep), 1e-8) << i;
      norm += gradient[i] * gradient[i];
    }
    EXPECT_GT(norm, 1e-3);
  }
}

TEST(PromptClassifier, LossIsTheCrossEntropyOfItsLogits) {
  const PromptFeatures prompt = random_prompt(6, 4, 2);
  const PromptClassifier classifier({2, 4, 3}, 1);
  const std::vector<double> logits = classifier.logits(prompt);
  double sum = 0;
  for (const double logit : logits) sum += std::exp(logit);
  for (int64_t label = 0; label < 3; ++label)
    EXPECT_NEAR(classifier.loss(prompt, label, {}), std::log(sum) - logits[static_cast<size_t>(label)],
                1e-12);
}

// One token of each prompt is marked in its keys; its values tell the class.
std::vector<LabelledPrompt> decodable(int count, uint64_t seed) {
  std::vector<LabelledPrompt> prompts;
  Rng rng(seed);
  for (int i = 0; i < count; ++i) {
    const int64_t tokens = 6 + static_cast<int64_t>(rng.below(10));
    LabelledPrompt prompt{random_prompt(tokens, 8, seed + 10 * static_cast<uint64_t>(i)), 0};
    // Class 0 is frequent.
    prompt.label = static_cast<int64_t>(std::max<uint64_t>(rng.below(6), 3) - 3);
    const auto marked = static_cast<int64_t>(rng.below(static_cast<uint64_t>(tokens)));
    for (int64_t j = 0; j < 8; ++j) prompt.features.keys.row(marked)[j] = 4;
    prompt.features.values.row(marked)[prompt.label] += 4;
    prompts.push_back(std::move(prompt));
  }
  return prompts;
}

TEST(ClassifierTraining, LearnsWhatTheFeaturesTell) {
  const std::vector<LabelledPrompt> prompts = decodable(120, 1), fresh = decodable(60, 77777);
  TrainingOptions options;
  options.epochs = 15;
  options.batch = 8;
  options.adam.rate = 0.01;
  ClassifierTraining training({2, 8, 3}, prompts, options);
  while (!training.finished()) training.run_epoch();
  const PromptClassifier classifier = training.best();
  int right = 0;
  for (const LabelledPrompt& prompt : fresh) right += classifier.classify(prompt.features) == prompt.label;
  EXPECT_GE(right, 51);  // chance: 40, the most frequent class
  EXPECT_LT(training.held_out_loss(), 0.7);
}

TEST(ClassifierTraining, ContinuesToTheSameBits) {
  const std::vector<LabelledPrompt> prompts = decodable(40, 5);
  TrainingOptions options;
  options.epochs = 5;
  options.batch = 7;
  options.seed = 9;
  ClassifierTraining straight({2, 8, 3}, prompts, options);
  while (!straight.finished()) straight.run_epoch();
  for (const int64_t stop : {0, 1, 3}) {
    ClassifierTraining first({2, 8, 3}, prompts, options), second({2, 8, 3}, prompts, options);
    for (int64_t i = 0; i < stop; ++i) first.run_epoch();
    second.restore(first.state());
    EXPECT_EQ(second.epochs_done(), stop);
    while (!second.finished()) second.run_epoch();
    EXPECT_EQ(second.state(), straight.state()) << stop;
  }
  options.seed = 10;
  ClassifierTraining other({2, 8, 3}, prompts, options);
  while (!other.finished()) other.run_epoch();
  EXPECT_NE(other.state(), straight.state());
}

TEST(Adam, FirstStepsByHand) {
  Adam adam;
  std::vector<double> x{1.0};
  const AdamOptions options{.rate = 0.1, .weight_decay = 0.5};
  adam.step(options, std::vector<double>{1.5}, x);  // gradient 1.5 + 0.5 * 1 = 2
  EXPECT_NEAR(x[0], 1 - 0.1 * 2 / (2 + 1e-8), 1e-15);
  const double before = x[0], g = -1 + 0.5 * before;
  adam.step(options, std::vector<double>{-1}, x);
  const double mean = (0.9 * 0.2 + 0.1 * g) / (1 - 0.81);
  const double square = (0.999 * 0.004 + 0.001 * g * g) / (1 - 0.998001);
  EXPECT_NEAR(x[0], before - 0.1 * mean / (std::sqrt(square) + 1e-8), 1e-12);
}

TEST(Rouge, ByHand) {
  const std::vector<int32_t> a{1, 2, 3, 4}, b{2, 9, 4, 1, 7};
  EXPECT_DOUBLE_EQ(rouge_l(a, b), 2.0 * 2 / 9);  // 2 .. 4
  EXPECT_DOUBLE_EQ(rouge_l(b, a), 2.0 * 2 / 9);
  EXPECT_DOUBLE_EQ(rouge_l(a, a), 1);
  EXPECT_DOUBLE_EQ(rouge_l(a, std::vector<int32_t>{5, 6}), 0);
  EXPECT_DOUBLE_EQ(rouge_l({}, {}), 0);
}

}  // namespace
}  // namespace grinqh
