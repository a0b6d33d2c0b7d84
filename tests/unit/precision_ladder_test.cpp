#include "quant/precision_ladder.h"

#include <gtest/gtest.h>

#include "model_files.h"
#include "numbers.h"

namespace grinqh {
namespace {

// Reads even channels at its budget and odd ones one level below, or all of them at the budget if the token
// says nothing; tunes itself by asking the trial once.
class Striped final : public PrecisionPolicy {
 public:
  struct Options {
    double bits = 3;
    template <class V>
    void fields(V& v) {
      v("bits", bits, Range{1, 8}, "budget");
    }
  };
  explicit Striped(Options options) : bits_(static_cast<Level>(options.bits)) {}

  CollectorNames needs() const override { return {"striped_" + std::to_string(bits_)}; }
  void prepare(const LinearTask& task, const QuantizedLinear&) override { layers_ += task.id; }
  void allot() override { layers_ += "!"; }
  bool tunes() const override { return true; }
  void tune(BlockTrial& trial) override { error_ = trial.error(); }
  Json findings() const override { return Json{{"layers", layers_}, {"error", error_}}; }
  Precision choose(const std::string&, std::span<const Step> steps, Matrix<const float> x,
                   Matrix<Level> scratch) const override {
    EXPECT_EQ(std::ssize(steps), x.rows);
    if (x(0, 0) == 0) return {bits_, {}};
    for (int64_t t = 0; t < x.rows; ++t)
      for (int64_t i = 0; i < x.cols; ++i) scratch(t, i) = static_cast<Level>(bits_ - i % 2);
    return {kFullLevel, scratch};
  }

 private:
  Level bits_;
  std::string layers_;
  double error_ = 0;
};
const Register<PrecisionPolicy, Striped> striped{"striped_for_ladders", "of this test"};

constexpr int64_t kIn = 5;
const std::vector<Level> kChain{6, 4, 2};

std::vector<std::vector<int>> chosen(const PrecisionLadder& ladder, const std::vector<Level>& precisions,
                                     const std::vector<float>& firsts) {
  const auto tokens = static_cast<int64_t>(precisions.size());
  MatrixBuffer<float> x = testing::random_matrix(tokens, kIn, 3);
  for (int64_t t = 0; t < tokens; ++t) x.row(t)[0] = firsts[static_cast<size_t>(t)];
  MatrixBuffer<Level> scratch(tokens, kIn);
  const std::vector<Step> steps(precisions.size());
  const Precision precision = ladder.choose("layer", steps, precisions, x, scratch);
  std::vector<std::vector<int>> all(precisions.size());
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t i = 0; i < kIn; ++i)
      all[static_cast<size_t>(t)].push_back(precision.levels.empty() ? precision.uniform
                                                                     : precision.levels(t, i));
  return all;
}

TEST(PrecisionLadder, ATokenIsServedByThePolicyOfItsPrecision) {
  const PrecisionLadder ladder("striped_for_ladders", kChain);
  const std::vector<Level> precisions{4, 4, 6, 2, 6, 6};
  const auto levels = chosen(ladder, precisions, std::vector<float>(6, 1));
  for (size_t t = 0; t < precisions.size(); ++t)
    for (int i = 0; i < kIn; ++i)
      EXPECT_EQ(levels[t][static_cast<size_t>(i)], precisions[t] - i % 2) << t << " " << i;
}

TEST(PrecisionLadder, UniformAnswersStandBesideGradedOnes) {
  const PrecisionLadder ladder("striped_for_ladders", kChain);
  EXPECT_EQ(chosen(ladder, {4, 4}, {0, 0}), (std::vector<std::vector<int>>(2, std::vector<int>(kIn, 4))));
  const auto mixed = chosen(ladder, {6, 2, 6}, {0, 1, 0});
  EXPECT_EQ(mixed[0], (std::vector<int>(kIn, 6)));
  EXPECT_EQ(mixed[1], (std::vector<int>{2, 1, 2, 1, 2}));
  EXPECT_EQ(mixed[2], (std::vector<int>(kIn, 6)));
}

// Its error is the level that the ladder serves in the meantime.
class Asking final : public BlockTrial {
 public:
  explicit Asking(const PrecisionLadder& ladder) : ladder_(ladder) {}
  const std::vector<std::string>& layers() const override { return layers_; }
  double error() override { return chosen(ladder_, {6, 4}, {0, 0})[1][0]; }

 private:
  const PrecisionLadder& ladder_;
  std::vector<std::string> layers_;
};

TEST(PrecisionLadder, EveryRungGoesThroughTheStagesAndIsTunedAlone) {
  PrecisionLadder ladder("striped_for_ladders", kChain);
  EXPECT_EQ(ladder.needs(), (CollectorNames{"striped_6", "striped_4", "striped_2"}));
  Asking trial(ladder);
  ladder.allot();
  EXPECT_TRUE(ladder.tunes());
  EXPECT_TRUE(ladder.looks_at_inputs());
  EXPECT_TRUE(ladder.gradings("layer").empty()) << "its rungs choose by themselves";
  ladder.tune(trial);
  for (const int precision : {6, 4, 2}) {
    const Json found = ladder.findings()[std::to_string(precision)];
    EXPECT_EQ(found["error"], precision);
    EXPECT_EQ(found["layers"], "!");
  }
  EXPECT_EQ(chosen(ladder, {2}, {0})[0][0], 2) << "afterwards tokens have their own precision again";
}

TEST(PrecisionLadder, RefusesWhatHasNoBudget) {
  EXPECT_REFUSED(PrecisionLadder("stripes", kChain), "base", "'stripes'", "striped_for_ladders");
  EXPECT_REFUSED(PrecisionLadder("uniform", kChain), "base = \"uniform\"", "'bits'");
}

}  // namespace
}  // namespace grinqh
