// The module that a site belongs to, run on some calibration windows with other weights in it.
#pragma once

#include <vector>

#include "calib/residual_stream.h"
#include "quant/model_transform.h"

namespace grinqh {

// Some windows of the residual stream as they are before a block: the same on every device.
struct StreamSample {
  StreamSample(const Transformer& transformer, const ResidualStream& stream);
  struct Part {
    Batch batch;
    Tensor x;  // [rows, hidden]
  };
  std::vector<Part> parts;
};

// Inputs and float outputs are computed at the first question, so that a transform which asks none pays
// nothing. The same for any number of threads.
class StreamProbe final : public ModuleProbe {
 public:
  // `site` is an index into inputs_of() of the block. All outlive the probe.
  StreamProbe(const Transformer& transformer, const StreamSample& sample, int64_t block, size_t site);

  double error(std::span<const Matrix<const float>> weights) override;
  double rounding_error(std::span<const SiteLayer> layers, const ScaledRounding& rounding) override;

 private:
  struct Run {
    const Batch* batch;
    Tensor input, output;  // of the module, float
  };
  void prepare();
  double error_with(LinearExecutor& linears);
  void run_module(const Run& run, LinearExecutor& linears, Activations output) const;
  int64_t outputs() const;

  const Transformer& transformer_;
  const StreamSample& sample_;
  int64_t block_;
  size_t site_;
  std::vector<const LinearWeights*> layers_;
  std::vector<Run> runs_;
};

}  // namespace grinqh
