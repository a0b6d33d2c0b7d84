// The forward and backward pass of the embedded models on a GPU against the CPU's.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "calib/block_collectors.h"
#include "calib/module_probe.h"
#include "device/on_gpu.h"
#include "runtime/backward.h"
#include "runtime/generate.h"

namespace grinqh {
namespace {

using testing::embedded_model;
using testing::EmbeddedModel;
using testing::on_gpu;
using testing::relative_difference;

class OnGpu : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override { GRINQH_NEED_GPU(); }
  const EmbeddedModel& embedded() const { return embedded_model(GetParam()); }

  static MatrixBuffer<float> logits(const Transformer& transformer, const Batch& batch) {
    const auto linears = transformer.float_linears();
    const Tensor features = transformer.run(batch, *linears);
    MatrixBuffer<float> result(batch.rows(), transformer.vocab());
    transformer.head(features, result);
    return result;
  }
};

TEST_P(OnGpu, LogitsAreTheCpus) {
  const Batch batch = Batch::of_windows(embedded().windows(3, 100), 100);
  const MatrixBuffer<float> expected = logits(embedded().transformer, batch);
  EXPECT_LE(relative_difference(logits(*on_gpu(embedded().model, Arithmetic::float32), batch), expected),
            2e-5);
  EXPECT_LE(relative_difference(logits(*on_gpu(embedded().model, Arithmetic::native), batch), expected),
            2e-2);
}

TEST_P(OnGpu, GreedyTextIsTheCpus) {
  const auto gpu = on_gpu(embedded().model, Arithmetic::float32);
  const auto linears = gpu->float_linears(), of_cpu = embedded().transformer.float_linears();
  const Matrix<const int32_t> prompts = embedded().windows(2, 20);
  EXPECT_EQ(generate(*gpu, *linears, prompts, 24, {}),
            generate(embedded().transformer, *of_cpu, prompts, 24, {}));
}

TEST_P(OnGpu, ScoresAreTheCpus) {
  const Batch batch = Batch::of_windows(embedded().windows(2, 64), 64);
  std::vector<int32_t> next(batch.tokens.begin() + 1, batch.tokens.end());
  next.push_back(-1);
  // Half the features: a reference that differs.
  const auto scores = [&](const Transformer& transformer) {
    const auto linears = transformer.float_linears();
    const Tensor features = transformer.run(batch, *linears);
    MatrixBuffer<float> reference = transformer.to_host(features);
    for (int64_t i = 0; i < reference.size(); ++i) reference.data()[i] *= 0.5f;
    std::vector<TokenScore> result(next.size());
    transformer.score({features, next, &transformer, reference}, result);
    return result;
  };
  const std::vector<TokenScore> expected = scores(embedded().transformer);
  const std::vector<TokenScore> found = scores(*on_gpu(embedded().model, Arithmetic::float32));
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_NEAR(found[i].nll, expected[i].nll, 1e-4 * (1 + expected[i].nll));
    EXPECT_NEAR(found[i].nll_float, expected[i].nll_float, 1e-4 * (1 + expected[i].nll_float));
    EXPECT_NEAR(found[i].kl, expected[i].kl, 1e-3 * (1e-3 + expected[i].kl));
    EXPECT_EQ(found[i].same_top, expected[i].same_top);
  }
}

TEST_P(OnGpu, GradientsAreTheCpus) {
  const Batch batch = Batch::of_windows(embedded().windows(2, 48), 48);
  std::map<std::string, MatrixBuffer<float>> expected;
  const std::vector<double> losses = run_backward(
      embedded().transformer, batch, [&](const LinearWeights& linear, ConstActivations, ConstActivations dy) {
        expected.emplace(linear.id, embedded().transformer.to_host(dy));
      });
  const auto gpu = on_gpu(embedded().model, Arithmetic::float32);
  size_t seen = 0;
  const std::vector<double> found =
      run_backward(*gpu, batch, [&](const LinearWeights& linear, ConstActivations, ConstActivations dy) {
        EXPECT_LE(relative_difference(gpu->to_host(dy), expected.at(linear.id)), 1e-3) << linear.id;
        ++seen;
      });
  EXPECT_EQ(seen, expected.size());
  for (size_t s = 0; s < losses.size(); ++s) EXPECT_NEAR(found[s], losses[s], 1e-4 * losses[s]);
}

TEST_P(OnGpu, DistancesAndFlaws) {
  const auto gpu = on_gpu(embedded().model, Arithmetic::native);
  MatrixBuffer<float> a = testing::random_matrix(33, 70, 1), b = testing::random_matrix(33, 70, 2);
  const Tensor on_a = gpu->copy_of(a), on_b = gpu->copy_of(b);
  EXPECT_NEAR(gpu->squared_distance(on_a, on_b), embedded().transformer.squared_distance(a, b), 1e-3);
  EXPECT_TRUE(gpu->all_finite(on_a));
  a.row(32)[69] = HUGE_VALF;
  gpu->copy(a, on_a);
  EXPECT_FALSE(gpu->all_finite(on_a));
}

// A site's layers rounded on the device, in its type, change the module as those rounded on the CPU do.
TEST_P(OnGpu, ErrorsOfRoundingAreTheCpus) {
  const Model& model = embedded().model;
  const Matrix<const int32_t> windows = embedded().windows(2, 64);
  const auto errors = [&](const Transformer& transformer) {
    const ResidualStream stream(transformer, windows);
    const StreamSample sample(transformer, stream);
    const auto sites = inputs_of(model.blocks[0]);
    std::vector<double> found;
    for (size_t site = 0; site < sites.size(); ++site) {
      std::vector<float> scales = testing::random_vector(sites[site].front()->weight.cols(), 7);
      for (float& scale : scales) scale = std::exp(0.3f * scale);
      std::vector<MatrixBuffer<float>> weights;
      std::vector<SiteLayer> layers;
      for (const LinearWeights* layer : sites[site]) {
        weights.push_back(to_float(layer->weight));
        layers.push_back({layer->id, weights.back().view()});
      }
      found.push_back(StreamProbe(transformer, sample, 0, site).rounding_error(layers, {scales, 3, 64}));
    }
    return found;
  };
  const std::vector<double> expected = errors(embedded().transformer);
  const std::vector<double> found = errors(*on_gpu(model, Arithmetic::float32));
  const std::vector<double> native = errors(*on_gpu(model, Arithmetic::native));
  for (size_t site = 0; site < expected.size(); ++site) {
    EXPECT_NEAR(found[site], expected[site], 1e-3 * expected[site]) << site;
    EXPECT_NEAR(native[site], expected[site], 5e-2 * expected[site]) << site;
  }
}

INSTANTIATE_TEST_SUITE_P(Embedded, OnGpu, ::testing::Values("llama-tiny", "qwen3-tiny"),
                         [](const auto& each) { return std::string(each.param).substr(0, 5); });

TEST(Memory, AModelThatDoesNotFitIsRefusedWithFigures) {
  GRINQH_NEED_GPU();
  Model model = embedded_model("llama-tiny").model;
  model.config.vocab = int64_t{1} << 33;  // of the plan alone: nothing is copied before it is refused
  model.embedding.shape[0] = model.config.vocab;
  EXPECT_REFUSED(make_transformer(model, {Device::cuda, 0, Arithmetic::native}), "does not fit on cuda:0",
                 "GiB");
}

}  // namespace
}  // namespace grinqh
