// SqueezeLLM (Kim et al., 2306.07629): each row's weights fall into clusters of least sensitivity-weighted
// squared error, decoded through a table of the row's own; single weights may stay in float16 beside them.
#include "kernels/lut_planes/layout.h"
#include "quant/nested_clusters.h"
#include "quant/outliers.h"
#include "quant/quantizer.h"
#include "quant/sensitivity.h"

namespace grinqh {
namespace {

class SqueezeLlm final : public Quantizer {
 public:
  struct Options {
    int bits = 4;
    std::string sensitivity = "fisher";
    double sensitive_outliers = 0, large_outliers = 0;
    template <class V>
    void fields(V& v) {
      v("bits", bits, Range{2, 8}, "width of a code: 2^bits entries in a row's table");
      v("sensitivity", sensitivity, Sensitivity::kinds(),
        "what the squared error of a weight is weighted by");
      v("sensitive_outliers", sensitive_outliers, Range{0, 0.5},
        "share of the most sensitive weights that stay in float16");
      v("large_outliers", large_outliers, Range{0, 0.5}, "share of the largest weights that stay in float16");
    }
  };

  explicit SqueezeLlm(Options options) : options_(std::move(options)) {}

  CollectorNames needs() const override { return Sensitivity::needs(options_.sensitivity); }

  std::unique_ptr<QuantizedLinear> quantize(const LinearTask& task) const override {
    const Sensitivity sensitivity(options_.sensitivity, task);
    const Outliers outliers =
        select_outliers(task.weight, sensitivity, {options_.sensitive_outliers, options_.large_outliers});
    const NestedClusters clusters =
        cluster_rows(task.id, task.weight, sensitivity, outliers, options_.bits, options_.bits);
    return make_lut_planes(task.id, task.weight, clusters, outliers);
  }

 private:
  Options options_;
};

const Register<Quantizer, SqueezeLlm> plugin{"squeezellm",
                                             "sensitivity-weighted k-means of each row, outliers kept apart"};

}  // namespace
}  // namespace grinqh
