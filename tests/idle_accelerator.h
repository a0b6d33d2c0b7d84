// An accelerator that is there and never asked: with it, layers are quantized beside each other.
#pragma once

#include "core/accelerator.h"
#include "core/error.h"

namespace grinqh::testing {

class IdleAccelerator final : public Accelerator {
 public:
  std::string name() const override { return "idle"; }
  InverseFactor inverse_cholesky(Matrix<const float>, double) override { refuse(); }
  SymmetricEigen symmetric_eigen(Matrix<const double>) override { refuse(); }
  void multiply(const Factor&, const Factor&, Matrix<float>, Output) override { refuse(); }
  void search_clips(const ClipTask&) override { refuse(); }
  void round_with_feedback(const FeedbackTask&) override { refuse(); }
  void cluster_rows(const ClusterTask&) override { refuse(); }
  void level_errors(const LevelTask&) override { refuse(); }
  void sum_prefixes(const PrefixTask&) override { refuse(); }
  void nested_errors(const NestedErrorTask&) override { refuse(); }

 private:
  [[noreturn]] static void refuse() { fail("an accelerator that should not be asked"); }
};

}  // namespace grinqh::testing
