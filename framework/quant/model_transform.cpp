#include "quant/model_transform.h"

namespace grinqh {

double ModuleProbe::rounding_error(std::span<const SiteLayer> layers, const ScaledRounding& rounding) {
  std::vector<MatrixBuffer<float>> rounded;
  std::vector<Matrix<const float>> weights;
  for (const SiteLayer& layer : layers) {
    rounded.push_back(round_scaled(layer.weight, layer.id, rounding));
    weights.push_back(rounded.back().view());
  }
  return error(weights);
}

}  // namespace grinqh
