// A few of a layer's inputs as they are.
#include <algorithm>
#include <vector>

#include "core/registry.h"
#include "quant/stats.h"

namespace grinqh {
namespace {

// Every n-th token, n the smallest power of two that leaves at most kTokens. [tokens, in]
class SampledInputs final : public Collector {
 public:
  struct Options {
    template <class V>
    void fields(V&) {}
  };
  explicit SampledInputs(Options) {}

  void observe(ConstActivations inputs) override {
    const Matrix<const float> x = inputs.matrix();
    for (int64_t t = 0; t < x.rows; ++t) {
      if (seen_++ % stride_ != 0) continue;
      if (rows_.size() == kTokens) halve();
      rows_.emplace_back(x.row(t), x.row(t) + x.cols);
    }
  }

  Merge merge() const override { return Merge::sample; }

  PlainVector<float> finish() override {
    PlainVector<float> values;
    for (const std::vector<float>& row : rows_) values.insert(values.end(), row.begin(), row.end());
    rows_.clear();
    return values;
  }

 private:
  static constexpr size_t kTokens = kSampledTokens;

  void halve() {
    for (size_t i = 0; 2 * i < rows_.size(); ++i) std::swap(rows_[i], rows_[2 * i]);
    rows_.resize((rows_.size() + 1) / 2);
    stride_ *= 2;
  }

  std::vector<std::vector<float>> rows_;
  int64_t seen_ = 0, stride_ = 1;
};

const Register<Collector, SampledInputs> sampled_inputs{"sampled_inputs",
                                                        "inputs of every n-th token, 512 tokens at most"};

}  // namespace
}  // namespace grinqh
