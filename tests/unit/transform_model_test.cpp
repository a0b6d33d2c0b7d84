// Carrying out plans: what is exact and what is refused. Which plans transforms make is tested with them.
#include "calib/transform_model.h"

#include "calib/apply_plan.h"
#include "calib/block_collectors.h"
#include "calib/module_probe.h"
#include "core/progress.h"
#include "core/registry.h"
#include "numbers.h"
#include "transform_models.h"

namespace grinqh {
namespace {

using testing::logits_on;
using testing::TransformModels;

// Makes the plan that it was given.
class Planned final : public ModelTransform {
 public:
  explicit Planned(TransformPlan plan) : plan_(std::move(plan)) {}
  TransformPlan plan(int64_t, uint64_t) override { return std::move(plan_); }

 private:
  TransformPlan plan_;
};

class Transforming : public ::testing::Test {
 protected:
  Transforming() { Progress::set_enabled(false); }

  static TransformedModel transformed(const Model& model, TransformPlan plan) {
    std::vector<NamedTransform> transforms;
    transforms.push_back({"planned", std::make_unique<Planned>(std::move(plan))});
    return transform_model(model, transforms, testing::random_windows(model.config.vocab, 2, 20, 1), 0);
  }

  // Scales for every site, equal where inputs have one source.
  static TransformPlan scaled_everywhere(const Model& model) {
    TransformPlan plan;
    const BlockWeights& block = model.blocks[0];
    for (const LinearWeights* first : {&block.q, &block.gate, &block.down}) {
      std::vector<float> scales = testing::random_vector(first->weight.cols(), 3);
      for (float& scale : scales) scale = std::exp(scale);
      plan.input_scales.emplace(first->id, scales);
    }
    std::vector<float>& scales = plan.input_scales[block.o.id];
    for (const int64_t source : value_sources(model.config))
      scales.push_back(0.5f + static_cast<float>(source));
    return plan;
  }
};

TEST_F(Transforming, ScalesOfAllSitesLeaveTheLogits) {
  for (const auto& [name, model] : TransformModels::get().models) {
    const TransformedModel found = transformed(model, scaled_everywhere(model));
    EXPECT_LT(found.logits_error, 1e-5) << name;
    // The weights did change.
    EXPECT_GT(testing::relative_error(to_float(found.model.blocks[0].down.weight),
                                      to_float(model.blocks[0].down.weight)),
              0.1);
  }
}

TEST_F(Transforming, FoldedNormsHaveNoWeightsAndTheHeadIsItsOwn) {
  const Model& model = TransformModels::get().models.at("qwen3_tied");
  TransformPlan plan;
  plan.fold_norms = true;
  const Model folded = transformed(model, std::move(plan)).model;
  for (const TensorView* norm :
       {&folded.final_norm, &folded.blocks[0].attention_norm, &folded.blocks[0].mlp_norm})
    for (const float weight : to_float_vector(*norm)) EXPECT_EQ(weight, 1.0f);
  EXPECT_EQ(to_float_vector(folded.blocks[0].q_norm), to_float_vector(model.blocks[0].q_norm));
  EXPECT_FALSE(folded.config.tied_head);
  EXPECT_EQ(folded.embedding.bytes.data(), model.embedding.bytes.data()) << "what stays is shared";
  EXPECT_NE(folded.head.bytes.data(), model.head.bytes.data());
}

TEST_F(Transforming, OwnedWeightsOutliveTheModelThatTheyWereMadeFrom) {
  const Model& model = TransformModels::get().models.at("llama_biases");
  Model last;
  {
    TransformPlan fold, scale = scaled_everywhere(model);
    fold.fold_norms = true;
    const Model folded = transformed(model, std::move(fold)).model;
    last = transformed(folded, std::move(scale)).model;
  }
  const MatrixBuffer<int32_t> window = testing::random_windows(model.config.vocab, 1, 10, 4);
  EXPECT_LT(testing::relative_error(logits_on(last, window), logits_on(model, window)), 1e-5);
}

TEST_F(Transforming, ABasisThatIsNotOrthogonalFailsNamingTheTransform) {
  const Model& model = TransformModels::get().models.at("llama_biases");
  TransformPlan plan;
  plan.fold_norms = true;
  plan.residual_basis = MatrixBuffer<float>::zeroed(12, 12);
  for (int64_t i = 0; i < 12; ++i) plan.residual_basis.row(i)[i] = i == 4 ? 1.01f : 1.0f;
  try {
    transformed(model, std::move(plan));
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("transform 'planned' changes the model"));
    EXPECT_THAT(error.what(), ::testing::HasSubstr("allowed is 1e-04"));
  }
}

TEST_F(Transforming, ScalesThatNoSourceCanDivideByAreRefused) {
  const Model& model = TransformModels::get().models.at("llama_biases");
  TransformPlan apart = scaled_everywhere(model);
  apart.input_scales[model.blocks[0].o.id][0] *= 2;
  EXPECT_REFUSED(transformed(model, std::move(apart)), "transform 'planned'", "o_proj",
                 "one channel of v_proj");
  for (const float scale : {0.0f, -1.0f, HUGE_VALF, NAN}) {
    TransformPlan bad = scaled_everywhere(model);
    bad.input_scales[model.blocks[0].q.id][3] = scale;
    EXPECT_REFUSED(transformed(model, std::move(bad)), "q_proj", "expected one above 0");
  }
}

TEST_F(Transforming, ValueChannelsAreSharedAsTheQueryHeadsOfAGroupShareThem) {
  ModelConfig config;
  config.heads = 4;
  config.kv_heads = 2;
  config.head_dim = 3;
  EXPECT_THAT(value_sources(config), ::testing::ElementsAre(0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5));
}

// A model and what its probes see.
struct ProbedModel {
  ProbedModel(const char* name, uint64_t seed)
      : model(TransformModels::get().models.at(name)),
        transformer(model),
        windows(testing::random_windows(model.config.vocab, 2, 12, seed)),
        stream(transformer, windows),
        sample(transformer, stream) {}
  const Model& model;
  const Transformer transformer;
  const MatrixBuffer<int32_t> windows;
  const ResidualStream stream;
  const StreamSample sample;
};

// Against the module's outputs, from the half blocks that the runtime has.
TEST_F(Transforming, AProbeMeasuresItsModuleAlone) {
  const ProbedModel probed("llama_biases", 5);
  const auto& [model, transformer, windows, stream, sample] = probed;
  const auto sites = inputs_of(model.blocks[0]);
  for (size_t site = 0; site < sites.size(); ++site) {
    StreamProbe probe(transformer, sample, 0, site);
    std::vector<MatrixBuffer<float>> weights;
    std::vector<Matrix<const float>> views;
    for (const LinearWeights* layer : sites[site]) {
      weights.push_back(to_float(layer->weight));
      views.push_back(weights.back().view());
    }
    EXPECT_EQ(probe.error(views), 0.0) << site;
    // Twice the change of a layer that the output is linear in: four times the error.
    float& weight = weights.back().view()(0, 1);
    const float original = weight;
    weight = original + 0.01f;
    const double once = probe.error(views);
    weight = original + 0.02f;
    EXPECT_GT(once, 0.0) << site;
    EXPECT_NEAR(probe.error(views) / once, 4.0, 0.02) << site;
  }
}

TEST_F(Transforming, AProbeOfALayerIsItsMeanSquaredOutputChange) {
  const ProbedModel probed("qwen3_tied", 6);
  const auto& [model, transformer, windows, stream, sample] = probed;
  StreamProbe probe(transformer, sample, 0, 3);
  MatrixBuffer<float> inputs(stream.tokens(), model.config.intermediate);
  FloatLinears linears;
  ObservedLinears observed(linears, [&](const LinearWeights& linear, ConstActivations x) {
    if (&linear == &model.blocks[0].down) std::copy_n(x.matrix().data, inputs.size(), inputs.data());
  });
  ResidualStream again(transformer, windows);
  ASSERT_EQ(again.batches(), 1u);
  again.run(0, 0, observed, ResidualStream::Output::discard);
  const MatrixBuffer<float> weight = to_float(model.blocks[0].down.weight);
  const MatrixBuffer<float> other = testing::random_matrix(weight.rows(), weight.cols(), 7);
  const MatrixBuffer<double> a = testing::product_nt(inputs, weight), b = testing::product_nt(inputs, other);
  double sum = 0;
  for (int64_t i = 0; i < a.size(); ++i) sum += (a.data()[i] - b.data()[i]) * (a.data()[i] - b.data()[i]);
  const Matrix<const float> view = other.view();
  EXPECT_NEAR(probe.error({&view, 1}), sum / static_cast<double>(a.size()), 1e-5 * sum);
}

TEST_F(Transforming, AProbeRoundsTheLayersOfItsSite) {
  const ProbedModel probed("llama_biases", 8);
  const auto& [model, transformer, windows, stream, sample] = probed;
  const auto sites = inputs_of(model.blocks[0]);
  for (size_t site = 0; site < sites.size(); ++site) {
    StreamProbe probe(transformer, sample, 0, site);
    std::vector<float> scales = testing::random_vector(sites[site].front()->weight.cols(), 9);
    for (float& scale : scales) scale = 0.5f + std::abs(scale);
    const ScaledRounding rounding{scales, 3, 5};
    std::vector<MatrixBuffer<float>> weights, rounded;
    std::vector<SiteLayer> layers;
    std::vector<Matrix<const float>> views;
    for (const LinearWeights* layer : sites[site]) {
      weights.push_back(to_float(layer->weight));
      layers.push_back({layer->id, weights.back().view()});
      rounded.push_back(round_scaled(weights.back(), layer->id, rounding));
      views.push_back(rounded.back().view());
    }
    const double found = probe.rounding_error(layers, rounding);
    EXPECT_GT(found, 0.0) << site;
    EXPECT_EQ(found, probe.error(views)) << site;
  }
}

TEST(SampledInputs, AreEveryNthTokenHoweverTheyCome) {
  MatrixBuffer<float> x(1500, 2);
  for (int64_t i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(i);
  for (const int64_t batch : {1500, 7, 512}) {
    const auto collector = Registry<Collector>::get().make("sampled_inputs");
    for (int64_t t = 0; t < 1500; t += batch)
      collector->observe(x.view().rows_between(t, std::min<int64_t>(t + batch, 1500)));
    const PlainVector<float> found = collector->finish();
    ASSERT_EQ(found.size(), 2u * 375) << "every fourth of 1500";
    for (size_t i = 0; i < 375; ++i) EXPECT_EQ(found[2 * i], x.row(static_cast<int64_t>(4 * i))[0]);
  }
}

}  // namespace
}  // namespace grinqh
