#include "calib/module_probe.h"

#include <algorithm>

#include "calib/block_collectors.h"
#include "core/error.h"
#include "core/gemm.h"
#include "core/parallel.h"

namespace grinqh {

namespace {

// Batches of the stream (2048 tokens each, or one window) that a question is answered on.
constexpr size_t kBatches = 2;

enum Site : size_t { kAttention = 0, kMlp = 2 };  // of inputs_of(); the others are one layer each

// Some layers with other weights, the rest float.
class ReplacedLinears final : public LinearExecutor {
 public:
  ReplacedLinears(std::span<const LinearWeights* const> layers, std::span<const Matrix<const float>> weights)
      : layers_(layers), weights_(weights) {}
  void run(const LinearWeights& linear, Matrix<const float> x, Matrix<float> y) override {
    const auto it = std::ranges::find(layers_, &linear);
    if (it == layers_.end()) return float_.run(linear, x, y);
    matmul_nt(x, weights_[static_cast<size_t>(it - layers_.begin())], y);
    if (!linear.bias.empty()) add_bias(y, to_float_vector(linear.bias));
  }

 private:
  std::span<const LinearWeights* const> layers_;
  std::span<const Matrix<const float>> weights_;
  FloatLinears float_;
};

double squared_difference(const MatrixBuffer<float>& a, const MatrixBuffer<float>& b) {
  std::vector<double> rows(static_cast<size_t>(a.rows()));
  parallel_for(a.rows(), [&](int64_t t) {
    double sum = 0;
    for (int64_t i = 0; i < a.cols(); ++i) {
      const double difference = static_cast<double>(a.row(t)[i]) - static_cast<double>(b.row(t)[i]);
      sum += difference * difference;
    }
    rows[static_cast<size_t>(t)] = sum;
  });
  double sum = 0;
  for (const double row : rows) sum += row;
  return sum;
}

}  // namespace

StreamSample::StreamSample(const ResidualStream& stream) {
  const size_t count = std::min(kBatches, stream.batches());
  for (size_t i = 0; i < count; ++i) {
    const size_t batch = i * stream.batches() / count;
    const Matrix<const float> x = stream.at(batch);
    Part part{&stream.batch(batch), MatrixBuffer<float>(x.rows, x.cols)};
    std::copy_n(x.data, part.x.size(), part.x.data());
    parts.push_back(std::move(part));
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

void StreamProbe::run_module(const Run& run, LinearExecutor& linears, Matrix<float> output) const {
  if (site_ == kAttention)
    transformer_.attention(block_, *run.batch, run.input, linears, nullptr, output);
  else if (site_ == kMlp)
    transformer_.mlp(block_, run.input, linears, output);
  else
    linears.run(*layers_.front(), run.input, output);
}

void StreamProbe::prepare() {
  for (const StreamSample::Part& part : sample_.parts) {
    Run run{part.batch, {}, {}};
    FloatLinears linears;
    ObservedLinears observed(linears, [&](const LinearWeights& linear, Matrix<const float> x) {
      if (&linear != layers_.front()) return;
      run.input = MatrixBuffer<float>(x.rows, x.cols);
      for (int64_t t = 0; t < x.rows; ++t) std::copy_n(x.row(t), x.cols, run.input.row(t));
    });
    MatrixBuffer<float> stream(part.x.rows(), part.x.cols());
    std::copy_n(part.x.data(), stream.size(), stream.data());
    transformer_.run_block(block_, *part.batch, stream, observed, nullptr);
    run.output = MatrixBuffer<float>(stream.rows(), outputs());
    run_module(run, linears, run.output);
    runs_.push_back(std::move(run));
  }
}

double StreamProbe::error(std::span<const Matrix<const float>> weights) {
  check(weights.size() == layers_.size(), "one matrix a layer of the site");
  if (runs_.empty()) prepare();
  ReplacedLinears replaced(layers_, weights);
  double sum = 0, count = 0;
  for (const Run& run : runs_) {
    MatrixBuffer<float> output(run.output.rows(), run.output.cols());
    run_module(run, replaced, output);
    sum += squared_difference(output, run.output);
    count += static_cast<double>(output.size());
  }
  return sum / count;
}

}  // namespace grinqh
