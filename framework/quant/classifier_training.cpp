#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/rng.h"
#include "quant/prompt_classifier.h"

namespace grinqh {

namespace {
// Streams of the seed: each epoch has one of its own, so nothing of a generator needs to be kept.
constexpr uint64_t kFirstEpochStream = 1;
}  // namespace

ClassifierTraining::ClassifierTraining(ClassifierShape shape, std::span<const LabelledPrompt> prompts,
                                       const TrainingOptions& options)
    : prompts_(prompts),
      options_(options),
      held_out_((prompts.size() + 9) / 10),
      current_(shape, options.seed),
      best_(current_.parameters()),
      best_loss_(HUGE_VAL) {
  check(prompts.size() >= 2, "training needs a prompt besides the held out ones");
}

std::vector<size_t> ClassifierTraining::balanced_order() const {
  Rng rng(options_.seed, kFirstEpochStream + static_cast<uint64_t>(epoch_));
  std::vector<std::vector<size_t>> classes(static_cast<size_t>(current_.shape().classes));
  for (size_t i = held_out_; i < prompts_.size(); ++i)
    classes[static_cast<size_t>(prompts_[i].label)].push_back(i);
  const size_t most = std::ranges::max_element(classes, {}, &std::vector<size_t>::size)->size();
  std::vector<size_t> order;
  for (const std::vector<size_t>& members : classes) {
    if (members.empty()) continue;
    for (size_t i = 0; i < most; ++i)
      order.push_back(i / members.size() < most / members.size() ? members[i % members.size()]
                                                                 : members[rng.below(members.size())]);
  }
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[rng.below(i)]);
  return order;
}

void ClassifierTraining::run_epoch() {
  const std::vector<size_t> order = balanced_order();
  Rng rng(options_.seed ^ 0x64726f70u, kFirstEpochStream + static_cast<uint64_t>(epoch_));
  std::vector<double> gradient(current_.parameters().size()), keep;
  const auto batch = static_cast<size_t>(options_.batch);
  for (size_t begin = 0; begin < order.size(); begin += batch) {
    const size_t end = std::min(begin + batch, order.size());
    std::ranges::fill(gradient, 0.0);
    for (size_t i = begin; i < end; ++i) {
      const LabelledPrompt& prompt = prompts_[order[i]];
      keep.resize(options_.dropout > 0
                      ? static_cast<size_t>(current_.shape().queries() * prompt.features.keys.rows())
                      : 0);
      for (double& factor : keep)
        factor = rng.uniform() < options_.dropout ? 0.0 : 1 / (1 - options_.dropout);
      current_.loss(prompt.features, prompt.label, gradient, keep);
    }
    for (double& slope : gradient) slope /= static_cast<double>(end - begin);
    adam_.step(options_.adam, gradient, current_.parameters());
  }
  ++epoch_;
  double loss = 0;
  for (const LabelledPrompt& prompt : prompts_.first(held_out_))
    loss += current_.loss(prompt.features, prompt.label, {}) / static_cast<double>(held_out_);
  if (loss < best_loss_) {
    best_loss_ = loss;
    best_ = current_.parameters();
  }
}

std::vector<double> ClassifierTraining::state() const {
  std::vector<double> all{static_cast<double>(epoch_), static_cast<double>(adam_.steps), best_loss_};
  for (const std::vector<double>* part : {&current_.parameters(), &best_, &adam_.mean, &adam_.square})
    all.insert(all.end(), part->begin(), part->end());
  return all;
}

void ClassifierTraining::restore(std::span<const double> state) {
  const size_t count = current_.parameters().size();
  const size_t moments = state[1] > 0 ? count : 0;
  check(state.size() == 3 + 2 * count + 2 * moments, "classifier: size of a training state");
  epoch_ = static_cast<int64_t>(state[0]);
  adam_.steps = static_cast<int64_t>(state[1]);
  best_loss_ = state[2];
  auto from = state.begin() + 3;
  const auto take = [&](std::vector<double>& part, size_t size) {
    part.assign(from, from + static_cast<std::ptrdiff_t>(size));
    from += static_cast<std::ptrdiff_t>(size);
  };
  take(current_.parameters(), count);
  take(best_, count);
  take(adam_.mean, moments);
  take(adam_.square, moments);
}

}  // namespace grinqh
