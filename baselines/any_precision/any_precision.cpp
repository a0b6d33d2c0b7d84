// Any-Precision LLM (Park et al., 2402.10517): clusters of a few bits for each row, cut in two bit by bit.
// The codes of all widths are prefixes of the longest one; each width has its own table.
#include "kernels/lut_planes/layout.h"
#include "quant/nested_clusters.h"
#include "quant/outliers.h"
#include "quant/quantizer.h"
#include "quant/sensitivity.h"

namespace grinqh {
namespace {

class AnyPrecision final : public Quantizer {
 public:
  struct Options {
    int seed = 3, parent = 8;
    std::string sensitivity = "fisher";
    double sensitive_outliers = 0, large_outliers = 0;
    template <class V>
    void fields(V& v) {
      v("seed", seed, Range{1, 8}, "bits of the lowest level, whose clusters are optimal");
      v("parent", parent, Range{1, 8}, "bits of the highest level");
      v("sensitivity", sensitivity, Sensitivity::kinds(),
        "what the squared error of a weight is weighted by");
      v("sensitive_outliers", sensitive_outliers, Range{0, 0.5},
        "share of the most sensitive weights that stay in float16");
      v("large_outliers", large_outliers, Range{0, 0.5}, "share of the largest weights that stay in float16");
    }
    void validate() const {
      if (seed > parent) bad_input("seed = {} is beyond parent = {}", seed, parent);
    }
  };

  explicit AnyPrecision(Options options) : options_(std::move(options)) {}

  CollectorNames needs() const override { return Sensitivity::needs(options_.sensitivity); }

  std::unique_ptr<QuantizedLinear> quantize(const LinearTask& task) const override {
    const Sensitivity sensitivity(options_.sensitivity, task);
    const Outliers outliers =
        select_outliers(task.weight, sensitivity, {options_.sensitive_outliers, options_.large_outliers});
    const NestedClusters clusters =
        cluster_rows(task.id, task.weight, sensitivity, outliers, options_.seed, options_.parent);
    return make_lut_planes(task.id, task.weight, clusters, outliers);
  }

 private:
  Options options_;
};

const Register<Quantizer, AnyPrecision> plugin{
    "any_precision", "weighted k-means of each row, upscaled bit by bit to nested codes"};

}  // namespace
}  // namespace grinqh
