// Changes to a model's weights that leave its function as it is: what comes after (statistics, quantizers,
// policies) meets weights and inputs that are easier for it. A transform is a declaration; framework/calib
// carries it out and checks that the logits stay. Transforms are plugins (quantizers/, baselines/).
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/matrix.h"
#include "core/options.h"
#include "core/registry.h"
#include "quant/scaled_rounding.h"
#include "quant/stats.h"

namespace grinqh {

// What is done, in this order. Empty members leave the model as it is.
struct TransformPlan {
  // The weights of the norms that write layers' inputs (and the head's) move into those layers: W diag(norm).
  bool fold_norms = false;
  // Orthogonal Q [hidden, hidden]: the residual stream x becomes x Q. Only where norms have no weights.
  MatrixBuffer<float> residual_basis;
  // By the id of a site's first layer: input i of the site is divided by s[i] where it is made, and the
  // layers become W diag(s). Positive; equal for inputs of one source (see TransformSite).
  std::map<std::string, std::vector<float>, std::less<>> input_scales;
};

// A linear layer as transforms see it.
struct SiteLayer {
  std::string id;
  Matrix<const float> weight;             // [out, in]
  const LayerStats* gradients = nullptr;  // of the loss at its outputs, where needs() names such statistics
};

// The part of a block that a site's layers belong to, on calibration tokens: the attention for q, k and v,
// the MLP for gate and up, the layer itself for the others.
class ModuleProbe {
 public:
  virtual ~ModuleProbe() = default;
  // Mean squared change of the module's output, over tokens and channels, if the site's layers had these
  // weights. One [out, in] for every layer of the site.
  virtual double error(std::span<const Matrix<const float>> weights) = 0;
  // The same with every layer of the site rounded as round_scaled() rounds it. Here on the host; a device may
  // round the weights that it multiplies by, in their type. BadInput naming a layer with a scale that does
  // not fit into float16.
  virtual double rounding_error(std::span<const SiteLayer> layers, const ScaledRounding& rounding);
};

// Linear layers of one block that share an input.
struct TransformSite {
  using Layer = SiteLayer;
  std::vector<Layer> layers;
  bool residual = false;  // the input is the normalized residual stream
  // Which channel makes each input, [in]: several inputs have one source where query heads share a value
  // head.
  std::vector<int64_t> sources;
  const LayerStats& stats;  // what needs() names
  ModuleProbe& probe;
};

class ModelTransform {
 public:
  static constexpr std::string_view kind = "transform";
  virtual ~ModelTransform() = default;

  // Statistics of the float model as the transforms before left it. If any are named, see() shows every block
  // in the order of the model, its sites in the order in which they run; what it refers to ends with the
  // call.
  virtual CollectorNames needs() const { return {}; }
  virtual void see(std::span<const TransformSite> block) { (void)block; }
  // Once, after that.
  virtual TransformPlan plan(int64_t hidden, uint64_t seed) = 0;
};

// A transform with its options, as a quantizer asks for it.
struct TransformChoice {
  std::string name;
  Settings settings = {};
};

}  // namespace grinqh
