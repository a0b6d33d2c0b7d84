#include "runtime/linear_executor.h"

#include "embedded_models.h"
#include "kernels/nested/layout.h"
#include "model_files.h"
#include "numbers.h"

namespace grinqh {
namespace {

constexpr int64_t kIn = 24, kOut = 17;

// Channel i at level 0, 2 or 4 by turns, whatever the input.
class ByTurns final : public PrecisionPolicy {
 public:
  void prepare(const LinearTask&, const QuantizedLinear&) override {}
  Precision choose(const std::string&, std::span<const Step>, Matrix<const float> x,
                   Matrix<Level> scratch) const override {
    for (int64_t t = 0; t < x.rows; ++t)
      for (int64_t i = 0; i < x.cols; ++i) scratch(t, i) = static_cast<Level>(i % 3 * 2);
    return {kFullLevel, scratch};
  }
};

class AlwaysTwo final : public PrecisionPolicy {
 public:
  void prepare(const LinearTask&, const QuantizedLinear&) override {}
  Precision choose(const std::string&, std::span<const Step>, Matrix<const float>,
                   Matrix<Level>) const override {
    return {2, {}};
  }
};

class QuantizedExecutor : public ::testing::Test {
 protected:
  QuantizedExecutor() {
    const MatrixBuffer<float> weight = testing::random_matrix(kOut, kIn, 1);
    const LayerStats nothing;
    const auto quantizer = Registry<Quantizer>::get().make(
        "grinqh", {{"table", {0, ""}}, {"axis", {"output", ""}}, {"feedback_bits", {0, ""}}});
    model_.layers["layer"] = quantizer->quantize({"layer", weight, nothing});
    linear_.id = "layer";
    for (int64_t t = 0; t < x_.rows(); ++t)
      steps_.push_back({t < 3 ? Phase::prefill : Phase::decode, static_cast<int32_t>(t), 0});
  }

  const QuantizedLinear& layer() const { return *model_.layers.at("layer"); }

  // Row t by its own levels.
  void expect_rows(const MatrixBuffer<float>& y, const RowTraffic& traffic,
                   const std::function<std::vector<Level>(int64_t)>& levels_of) {
    MatrixBuffer<float> w(kOut, kIn);
    for (int64_t t = 0; t < x_.rows(); ++t) {
      const std::vector<Level> levels = levels_of(t);
      layer().dequantize_rows(levels, 0, kOut, w);
      const auto expected = testing::product_nt(x_.view().rows_between(t, t + 1), w);
      EXPECT_LT(testing::worst_row_error(y.view().rows_between(t, t + 1), expected.view()), 2e-6) << t;
      int64_t codes = 0, channels_read = 0;
      for (const Level level : levels) codes += level * kOut, channels_read += level > 0;
      EXPECT_EQ(traffic.codes[static_cast<size_t>(t)], codes);
      // Scales and minima of one group a channel, planes padded to 24 rows.
      EXPECT_EQ(traffic.total[static_cast<size_t>(t)], codes * 24 / kOut + channels_read * 32);
    }
  }

  MatrixBuffer<float> run(QuantizedLinears& linears, std::span<const Step> steps) {
    MatrixBuffer<float> y(x_.rows(), kOut);
    linears.begin_batch(steps);
    linears.run(linear_, x_, y);
    return y;
  }

  QuantizedModel model_;
  LinearWeights linear_;
  MatrixBuffer<float> x_ = testing::random_matrix(8, kIn, 2);
  std::vector<Step> steps_;
};

std::vector<Level> all_at(Level level) { return std::vector<Level>(kIn, level); }
std::vector<Level> by_turns() {
  std::vector<Level> levels;
  for (size_t i = 0; i < kIn; ++i) levels.push_back(static_cast<Level>(i % 3 * 2));
  return levels;
}

TEST_F(QuantizedExecutor, PromptsReadThePrefillLevelAndDecodedTokensWhatThePolicySays) {
  const ByTurns policy;
  QuantizedLinears linears(model_, &policy, 4);
  const MatrixBuffer<float> y = run(linears, steps_);
  expect_rows(y, linears.traffic(), [](int64_t t) { return t < 3 ? all_at(4) : by_turns(); });
}

TEST_F(QuantizedExecutor, APolicyOfOneLevelLeavesPromptsAtTheirs) {
  const AlwaysTwo policy;
  QuantizedLinears linears(model_, &policy);
  const MatrixBuffer<float> y = run(linears, steps_);
  expect_rows(y, linears.traffic(), [](int64_t t) { return all_at(t < 3 ? 8 : 2); });
}

TEST_F(QuantizedExecutor, PromptsAloneDoNotAskThePolicy) {
  const ByTurns policy;
  QuantizedLinears linears(model_, &policy);
  const std::vector<Step> prompt(8);
  const MatrixBuffer<float> y = run(linears, prompt);
  expect_rows(y, linears.traffic(), [](int64_t) { return all_at(8); });
}

TEST_F(QuantizedExecutor, WithoutAPolicyEverythingIsRead) {
  QuantizedLinears linears(model_, nullptr);
  const MatrixBuffer<float> y = run(linears, steps_);
  expect_rows(y, linears.traffic(), [](int64_t) { return all_at(8); });
}

TEST_F(QuantizedExecutor, AFewDecodedTokensTakeFastKernelsWhereTheyMay) {
  const ByTurns policy;
  const std::vector<Step> decoded(8, {Phase::decode, 0, 0});
  QuantizedLinears exact(model_, &policy), fast(model_, &policy, kFullLevel, DecodeKernels::fast);
  const MatrixBuffer<float> expected = run(exact, decoded);
  const RowTraffic traffic = exact.traffic();
  const MatrixBuffer<float> y = run(fast, decoded);
  const double error = testing::worst_row_error(y.view(), expected.view());
  EXPECT_GT(error, 0) << "another kernel rounds otherwise";
  EXPECT_LT(error, 2e-3);
  EXPECT_EQ(fast.traffic().codes, traffic.codes);
  EXPECT_EQ(fast.traffic().total, traffic.total);
  EXPECT_EQ(testing::relative_error(run(fast, steps_), run(exact, steps_)), 0.0)
      << "with prompts in the batch";
  x_ = testing::random_matrix(kMaxGemvTokens + 1, kIn, 2);
  const std::vector<Step> many(static_cast<size_t>(x_.rows()), {Phase::decode, 0, 0});
  EXPECT_EQ(testing::relative_error(run(fast, many), run(exact, many)), 0.0) << "with too many tokens";
}

// Every other channel in full, the rest not at all.
class EveryOther final : public PrecisionPolicy {
 public:
  void prepare(const LinearTask&, const QuantizedLinear&) override {}
  Precision choose(const std::string&, std::span<const Step>, Matrix<const float> x,
                   Matrix<Level> scratch) const override {
    for (int64_t t = 0; t < x.rows; ++t)
      for (int64_t i = 0; i < x.cols; ++i) scratch(t, i) = static_cast<Level>(i % 2 * 8);
    return {kFullLevel, scratch};
  }
};

// A layout with one fast kernel for what is graded and another one for what is not.
TEST_F(QuantizedExecutor, GradedLayersTakeAFastKernelThatGrades) {
  model_.layers["layer"] = Registry<Quantizer>::get()
                               .make("rtn", {{"bits", {8, ""}}, {"group", {8, ""}}})
                               ->quantize({"layer", testing::random_matrix(kOut, kIn, 1), LayerStats()});
  const EveryOther policy;
  const std::vector<Step> decoded(8, {Phase::decode, 0, 0});
  QuantizedLinears exact(model_, nullptr), fast(model_, nullptr, kFullLevel, DecodeKernels::fast);
  for (const PrecisionPolicy* each :
       std::initializer_list<const PrecisionPolicy*>{nullptr, &policy, nullptr}) {
    SCOPED_TRACE(each == nullptr ? "whole" : "graded");
    exact.set_policy(each);
    fast.set_policy(each);
    const MatrixBuffer<float> expected = run(exact, decoded), y = run(fast, decoded);
    const double error = testing::worst_row_error(y.view(), expected.view());
    EXPECT_GT(error, 0) << "another kernel rounds otherwise";
    EXPECT_LT(error, 2e-3);
    EXPECT_EQ(fast.traffic().codes, exact.traffic().codes);
    EXPECT_EQ(fast.traffic().codes[0], kOut * kIn * 8 / (each == nullptr ? 1 : 2));
  }
}

TEST_F(QuantizedExecutor, TrafficAddsUpOverLayersAndStartsAnewWithABatch) {
  const AlwaysTwo policy;
  QuantizedLinears linears(model_, &policy);
  MatrixBuffer<float> y(8, kOut);
  linears.begin_batch(steps_);
  for (int i = 0; i < 3; ++i) linears.run(linear_, x_, y);
  EXPECT_EQ(linears.traffic().codes[7], 3 * 2 * kIn * kOut);
  linears.begin_batch(steps_);
  EXPECT_EQ(linears.traffic().codes, std::vector<int64_t>(8, 0));
}

TEST_F(QuantizedExecutor, BiasIsAddedAndOtherLayersRunInFloat) {
  const auto& model = testing::embedded_model("llama-tiny").model;
  LinearWeights other = model.blocks[0].q;
  const MatrixBuffer<float> x = testing::random_matrix(3, model.config.hidden, 3);
  MatrixBuffer<float> y(3, other.weight.rows()), with_bias(3, other.weight.rows());
  QuantizedLinears linears(model_, nullptr);
  linears.begin_batch(std::vector<Step>(3));
  linears.run(other, x, y);
  const auto expected = testing::product_nt(x, to_float(other.weight));
  EXPECT_LT(testing::worst_row_error(y.view(), expected.view()), 1e-6);
  EXPECT_EQ(linears.traffic().total, std::vector<int64_t>(3, 0));

  const std::vector<float> bias = testing::random_vector(other.weight.rows(), 4);
  other.bias = {DType::f32, {other.weight.rows()}, std::as_bytes(std::span(bias))};
  linears.run(other, x, with_bias);
  for (int64_t i = 0; i < y.size(); ++i)
    EXPECT_FLOAT_EQ(with_bias.data()[i], y.data()[i] + bias[static_cast<size_t>(i % y.cols())]);
}

TEST(FloatExecutor, FewAndManyTokensAreTheProduct) {
  const auto& model = testing::embedded_model("qwen3-tiny").model;
  const LinearWeights& linear = model.blocks[1].down;
  const MatrixBuffer<float> weight = to_float(linear.weight);
  for (const int64_t tokens : {1, 16, 17, 40}) {
    const MatrixBuffer<float> x = testing::random_matrix(tokens, weight.cols(), 5);
    MatrixBuffer<float> y(tokens, weight.rows());
    FloatLinears().run(linear, x, y);
    EXPECT_LT(testing::worst_row_error(y.view(), testing::product_nt(x, weight).view()), 1e-6) << tokens;
  }
}

}  // namespace
}  // namespace grinqh
