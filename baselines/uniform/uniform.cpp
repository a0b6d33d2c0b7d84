// One level for all channels, tokens and layers: how fixed-precision methods run, and what isolates the gain
// of grading on nested layouts.
#include "quant/optional_weights.h"
#include "quant/precision_policy.h"

namespace grinqh {
namespace {

class Uniform final : public PrecisionPolicy, public OptionalWeights {
 public:
  struct Options {
    int level = 0;
    template <class V>
    void fields(V& v) {
      v("level", level, Range{0, 16}, "bits of every weight that are read; 0: all that the layer stores");
    }
  };

  explicit Uniform(Options options)
      : level_(options.level == 0 ? kFullLevel : static_cast<Level>(options.level)) {}

  bool looks_at_weights(const std::string&, const LayerStats&) const override { return false; }
  void prepare(const LinearTask&, const QuantizedLinear& quantized) override { quantized.resolve(level_); }

  bool looks_at_inputs() const override { return false; }
  Precision choose(const std::string&, std::span<const Step>, Matrix<const float>,
                   Matrix<Level>) const override {
    return {level_, {}};
  }

 private:
  Level level_;
};

const Register<PrecisionPolicy, Uniform> plugin{"uniform", "one level for everything"};

}  // namespace
}  // namespace grinqh
