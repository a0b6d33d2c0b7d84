// Gradients against central differences of the loss, which is computed by its definition in float64.
#include "runtime/backward.h"

#include <map>

#include "numbers.h"
#include "reference_model.h"
#include "small_model.h"

namespace grinqh {
namespace {

using testing::ReferenceModel;
using testing::SmallModel;

Batch batch_of(const std::vector<std::vector<int32_t>>& sequences) {
  Batch batch;
  for (const auto& tokens : sequences) {
    batch.sequences.push_back({batch.rows(), static_cast<int64_t>(tokens.size()), 0});
    for (size_t t = 0; t < tokens.size(); ++t)
      batch.steps.push_back({Phase::prefill, static_cast<int32_t>(t), 0});
    batch.tokens.insert(batch.tokens.end(), tokens.begin(), tokens.end());
  }
  return batch;
}

// dy^T x of every layer, over all rows of the batch. [out, in]
std::map<std::string, std::vector<double>> weight_gradients(const Transformer& transformer,
                                                            const Batch& batch) {
  std::map<std::string, std::vector<double>> gradients;
  run_backward(transformer, batch,
               [&](const LinearWeights& linear, Matrix<const float> x, Matrix<const float> dy) {
                 EXPECT_FALSE(gradients.contains(linear.id)) << linear.id;
                 auto& gradient = gradients[linear.id];
                 for (int64_t n = 0; n < dy.cols; ++n)
                   for (int64_t k = 0; k < x.cols; ++k) {
                     double sum = 0;
                     for (int64_t t = 0; t < x.rows; ++t)
                       sum += static_cast<double>(dy(t, n)) * static_cast<double>(x(t, k));
                     gradient.push_back(sum);
                   }
               });
  return gradients;
}

struct Architecture {
  const char* name;
  Json changes;
};

void PrintTo(const Architecture& each, std::ostream* out) { *out << each.name; }

class Gradients : public ::testing::TestWithParam<Architecture> {};

const std::vector<std::vector<int32_t>> kSequences{{3, 7, 1, 9, 10, 4, 4}, {5, 2, 8, 6, 0}};

TEST_P(Gradients, AreThoseOfCentralDifferences) {
  const SmallModel small(GetParam().changes);
  const auto found = weight_gradients(small.transformer(), batch_of(kSequences));
  ASSERT_EQ(found.size(), 7u * 2);
  ReferenceModel reference(small.model());
  const auto loss = [&] { return reference.loss(kSequences[0]) + reference.loss(kSequences[1]); };
  for (const auto& [layer, gradient] : found) {
    constexpr double kStep = 1e-5;
    std::vector<double>& weight = reference.weight(layer);
    ASSERT_EQ(gradient.size(), weight.size());
    std::vector<double> some, expected;
    for (size_t i = 0; i < weight.size(); i += 3) {
      const double before = weight[i];
      weight[i] = before + kStep;
      const double above = loss();
      weight[i] = before - kStep;
      expected.push_back((above - loss()) / (2 * kStep));
      weight[i] = before;
      some.push_back(gradient[i]);
    }
    const double error =
        testing::relative_error(std::span<const double>(some), std::span<const double>(expected));
    RecordProperty(layer, fmt::format("{:.1e}", error));
    EXPECT_LT(error, 5e-6) << layer;
  }
}

TEST_P(Gradients, LossesAreThoseOfTheSequences) {
  const SmallModel small(GetParam().changes);
  const std::vector<double> losses =
      run_backward(small.transformer(), batch_of(kSequences), [](auto&&...) {});
  const ReferenceModel reference(small.model());
  ASSERT_EQ(losses.size(), 2u);
  for (size_t s = 0; s < 2; ++s) EXPECT_NEAR(losses[s], reference.loss(kSequences[s]), 1e-5 * losses[s]);
}

INSTANTIATE_TEST_SUITE_P(Architectures, Gradients,
                         ::testing::Values(Architecture{"llama", Json::object()},
                                           Architecture{"tied", {{"tie_word_embeddings", true}}},
                                           Architecture{"biases",
                                                        {{"attention_bias", true}, {"mlp_bias", true}}},
                                           Architecture{"qwen2", {{"architectures", {"Qwen2ForCausalLM"}}}},
                                           Architecture{"qwen3", {{"architectures", {"Qwen3ForCausalLM"}}}}),
                         [](const auto& each) { return std::string(each.param.name); });

// With o_proj = down_proj = 0 the residual stream stays the embedding of token 0, here 2 in every channel.
// The norm makes it 1; the head's only weight that is not zero, log 30 for token 0 on channel 0, gives that
// token the logit log 30 among ten zeros, so its probability is 30/40. Token 5 follows: the gradient on
// channel 0 of the normalized state is 3/4 log 30, and the norm takes away its mean over the 12 channels and
// halves the rest.
TEST(GradientsByHand, OfAModelThatOnlyLooksUp) {
  const SmallModel small(Json::object(), [](const std::string& name, std::vector<float>& values) {
    if (name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight"))
      std::ranges::fill(values, 0.0f);
    if (name.ends_with("norm.weight")) std::ranges::fill(values, 1.0f);
    if (name == "model.embed_tokens.weight") std::ranges::fill(values, 2.0f);
    if (name == "lm_head.weight") {
      std::ranges::fill(values, 0.0f);
      values[0] = std::log(30.0f);
    }
  });
  const double push = 0.75 * std::log(30.0);
  int seen = 0;
  const std::vector<double> losses = run_backward(
      small.transformer(), batch_of({{0, 5}}),
      [&](const LinearWeights& linear, Matrix<const float>, Matrix<const float> dy) {
        const bool last = linear.id.ends_with("o_proj") || linear.id.ends_with("down_proj");
        seen += last;
        for (int64_t n = 0; n < dy.cols; ++n) {
          EXPECT_NEAR(dy(0, n), last ? ((n == 0) - 1.0 / 12) * push / 2 : 0.0, 1e-5) << linear.id;
          EXPECT_EQ(dy(1, n), 0.0f) << "the last token predicts nothing";
        }
      });
  EXPECT_EQ(seen, 4);
  EXPECT_NEAR(losses[0], std::log(40.0), 1e-5);
}

TEST(GradientsThatAreNotFinite, NameTheLayer) {
  const auto message = [](const char* tensor, float factor) {
    const SmallModel small(Json::object(), [&](const std::string& name, std::vector<float>& values) {
      if (name == tensor)
        for (float& value : values) value *= factor;
    });
    try {
      run_backward(small.transformer(), batch_of(kSequences), [](auto&&...) {});
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("nothing was thrown");
  };
  EXPECT_EQ(message("model.layers.1.mlp.up_proj.weight", 3e38f),
            "model.layers.1.mlp.up_proj: its output is not finite");
  EXPECT_EQ(message("lm_head.weight", 3e38f),
            "model.layers.1.mlp.down_proj: the loss's gradient in its output is not finite");
}

}  // namespace
}  // namespace grinqh
