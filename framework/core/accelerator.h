// What methods may have computed elsewhere than on the CPU: the linear algebra that is heavy at the size of
// large layers. Methods call the free functions inverse_cholesky(), symmetric_eigen(), product_*() and
// round_with_feedback(), cluster_rows(), level_errors(), sum_prefixes(), nested_errors() and search_clips(),
// which ask here; there is one text of every method.
#pragma once

#include <memory>
#include <string>

#include "core/cholesky.h"
#include "core/gemm.h"
#include "core/symmetric_eigen.h"

namespace grinqh {

struct ClipTask;      // quant/clip_search.h
struct FeedbackTask;  // quant/column_feedback.h
struct ClusterTask;   // quant/nested_clusters.h
struct LevelTask;     // quant/grading_rule.h
struct PrefixTask;    // quant/nested_fit.h
struct NestedErrorTask;

// Takes and gives matrices of the host. Functions mean what the free ones of the same names say, to the
// rounding of their arithmetic, give the same result in every run, and may be called from several threads.
// Error if the device fails or has too little memory.
class Accelerator {
 public:
  virtual ~Accelerator() = default;
  virtual std::string name() const = 0;
  virtual InverseFactor inverse_cholesky(Matrix<const float> h, double damping) = 0;
  virtual SymmetricEigen symmetric_eigen(Matrix<const double> a) = 0;
  // y = a b, or y += a b, in float32.
  virtual void multiply(const Factor& a, const Factor& b, Matrix<float> y, Output output) = 0;
  virtual void search_clips(const ClipTask& task) = 0;
  // Rounding that is plain data; one by a host callback never comes here.
  virtual void round_with_feedback(const FeedbackTask& task) = 0;
  virtual void cluster_rows(const ClusterTask& task) = 0;
  virtual void level_errors(const LevelTask& task) = 0;
  virtual void sum_prefixes(const PrefixTask& task) = 0;
  virtual void nested_errors(const NestedErrorTask& task) = 0;

  // A matrix that stays as it is for as long as what is returned lives: calls that take it may share one
  // copy. Null where nothing is to be gained.
  virtual std::shared_ptr<void> hold(Matrix<const float>) { return nullptr; }
};

// The one that is installed in this process, or null.
std::shared_ptr<Accelerator> accelerator();
// Installs one (null: none) and returns the one before.
std::shared_ptr<Accelerator> set_accelerator(std::shared_ptr<Accelerator> next);

// Installs an accelerator for as long as it lives.
class AcceleratorScope {
 public:
  explicit AcceleratorScope(std::shared_ptr<Accelerator> next) : before_(set_accelerator(std::move(next))) {}
  ~AcceleratorScope() { set_accelerator(std::move(before_)); }
  AcceleratorScope(const AcceleratorScope&) = delete;
  AcceleratorScope& operator=(const AcceleratorScope&) = delete;

 private:
  std::shared_ptr<Accelerator> before_;
};

}  // namespace grinqh
