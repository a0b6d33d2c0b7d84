#include "quant/precision_policy.h"

namespace grinqh {

std::vector<const ChannelGrading*> PrecisionPolicy::gradings(const std::string& layer) const {
  const ChannelGrading* only = grading(layer);
  return only ? std::vector{only} : std::vector<const ChannelGrading*>();
}

Precision PrecisionPolicy::choose(const std::string& layer, std::span<const Step> steps,
                                  Matrix<const float> x, Matrix<Level> scratch) const {
  const ChannelGrading* rule = grading(layer);
  check(rule != nullptr, "a policy has a grading or chooses by itself");
  grade_channels(*rule, steps, x, scratch);
  return {kFullLevel, scratch};
}

}  // namespace grinqh
