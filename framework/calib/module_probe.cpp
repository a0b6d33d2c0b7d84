#include "calib/module_probe.h"

#include <algorithm>

#include "calib/block_collectors.h"
#include "core/error.h"

namespace grinqh {

namespace {

// What a question is answered on: parts of 2048 tokens, or one window.
constexpr int64_t kParts = 2, kPartTokens = 2048;

enum Site : size_t { kAttention = 0, kMlp = 2 };  // of inputs_of(); the others are one layer each

}  // namespace

StreamSample::StreamSample(const Transformer& transformer, const ResidualStream& stream) {
  const Matrix<const int32_t> windows = stream.windows();
  const int64_t step = std::max<int64_t>(1, kPartTokens / windows.cols);
  const int64_t all = (windows.rows + step - 1) / step, count = std::min(kParts, all);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t first = i * all / count * step, end = std::min(first + step, windows.rows);
    parts.push_back({Batch::of_windows(windows.rows_between(first, end), windows.cols),
                     transformer.copy_of(stream.at(first, end - first))});
  }
}

StreamProbe::StreamProbe(const Transformer& transformer, const StreamSample& sample, int64_t block,
                         size_t site)
    : transformer_(transformer),
      sample_(sample),
      block_(block),
      site_(site),
      layers_(inputs_of(transformer.model().blocks[static_cast<size_t>(block)])[site]) {}

int64_t StreamProbe::outputs() const {
  return site_ == kAttention || site_ == kMlp ? transformer_.hidden() : layers_.front()->weight.rows();
}

void StreamProbe::run_module(const Run& run, LinearExecutor& linears, Activations output) const {
  linears.begin_batch(run.batch->steps);
  if (site_ == kAttention)
    transformer_.attention(block_, *run.batch, run.input, linears, nullptr, output);
  else if (site_ == kMlp)
    transformer_.mlp(block_, run.input, linears, output);
  else
    linears.run(*layers_.front(), run.input, output);
}

void StreamProbe::prepare() {
  for (const StreamSample::Part& part : sample_.parts) {
    Run run{&part.batch, {}, {}};
    const auto linears = transformer_.float_linears();
    ObservedLinears observed(*linears, [&](const LinearWeights& linear, ConstActivations x) {
      if (&linear == layers_.front()) run.input = transformer_.copy_of(x);
    });
    observed.begin_batch(part.batch.steps);
    transformer_.run_block(block_, part.batch, transformer_.copy_of(part.x), observed, nullptr);
    run.output = transformer_.allocate(part.x.rows(), outputs());
    run_module(run, *linears, run.output);
    runs_.push_back(std::move(run));
  }
}

double StreamProbe::error(std::span<const Matrix<const float>> weights) {
  check(weights.size() == layers_.size(), "one matrix a layer of the site");
  return error_with(*transformer_.replaced_linears(layers_, weights));
}

double StreamProbe::rounding_error(std::span<const SiteLayer> layers, const ScaledRounding& rounding) {
  check(layers.size() == layers_.size(), "the layers of the site");
  const auto rounded = transformer_.rounded_linears(layers_, rounding);
  return rounded ? error_with(*rounded) : ModuleProbe::rounding_error(layers, rounding);
}

double StreamProbe::error_with(LinearExecutor& linears) {
  if (runs_.empty()) prepare();
  double sum = 0, count = 0;
  for (const Run& run : runs_) {
    const Tensor output = transformer_.allocate(run.output.rows(), run.output.cols());
    run_module(run, linears, output);
    sum += transformer_.squared_distance(output, run.output);
    count += static_cast<double>(output.size());
  }
  return sum / count;
}

}  // namespace grinqh
