// Sweeps in process, on a model of random weights: which cells there are, what makes them different, what is
// kept. What their numbers mean is tested from the command line and by the evaluators' own tests.
#include "experiment/runner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/digest.h"
#include "core/progress.h"
#include "core/text.h"
#include "runnable_model.h"
#include "store/result_file.h"
#include "support.h"

namespace grinqh {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;
namespace fs = std::filesystem;

class RunnerTest : public ::testing::Test {
 protected:
  RunnerTest() {
    Progress::set_enabled(false);
    testing::write_runnable_model(folder_ / "model");
    testing::write_runnable_text(folder_ / "held.txt");
    testing::write_runnable_text(folder_ / "other.txt", 90);
  }

  ExperimentSpec spec(const std::vector<std::string>& overrides = {}) const {
    return read_experiment(ConfigTable::parse("seed = 0\n"
                                              "[[models]]\npath = \"model\"\n"
                                              "[calibration]\ncontext = 16\nwindows = 2\n"
                                              "[[methods]]\nquantizer = \"rtn\"\nbits = [4, 3]\ngroup = 8\n"
                                              "[[methods]]\nquantizer = \"grinqh\"\ngroup = 8\n"
                                              "policy = { name = \"grinqh\", bits = [4.0, 2.0] }\n"
                                              "[[evaluations]]\nkind = \"perplexity\"\ntext = \"held.txt\"\n"
                                              "context = 16\nreference = \"float\"\n",
                                              "f.toml", overrides),
                           folder_.path());
  }
  RunOptions options(const std::string& folder = "out") const {
    return {folder_ / folder, false, false, "test"};
  }
  std::vector<std::string> digests(const ExperimentSpec& experiment) const {
    std::vector<std::unique_ptr<ModelStage>> stages;
    for (const auto& path : experiment.models)
      stages.push_back(std::make_unique<ModelStage>(experiment, path));
    std::vector<std::string> found;
    for (const Cell& cell : make_cells(experiment, stages, "out")) found.push_back(cell.digest);
    return found;
  }

  testing::TempDir folder_;
};

// The numbers of a row, without what time it took.
ByName<Scalar> figures(const fs::path& path) {
  ByName<Scalar> scalars = read_result(path).scalars;
  scalars.erase("quantize_seconds");
  scalars.erase("evaluate_seconds");
  return scalars;
}

void expect_same_rows(const std::vector<fs::path>& a, const std::vector<fs::path>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    const auto first = figures(a[i]), second = figures(b[i]);
    ASSERT_EQ(first.size(), second.size());
    for (const auto& [name, scalar] : first)
      EXPECT_EQ(scalar.value, second.at(name).value) << a[i] << " " << name;
  }
}

TEST_F(RunnerTest, CellsComeInOrderAndAreComputedOnce) {
  const RunOutcome first = run_experiment(spec(), options());
  EXPECT_EQ(first.computed, 4);
  EXPECT_EQ(first.reused, 0);
  EXPECT_EQ(first.failed, 0);
  ASSERT_THAT(first.results, SizeIs(4));
  std::vector<std::string> labels;
  for (size_t i = 0; i < first.results.size(); ++i) {
    const Result result = read_result(first.results[i]);
    labels.push_back(result.texts.at("label"));
    EXPECT_EQ(result.integers.at("order"), static_cast<int64_t>(i));
    EXPECT_EQ(result.texts.at("status"), "ok");
    EXPECT_EQ(result.texts.at("model"), "model");
    EXPECT_EQ(result.integers.at("tokens"), 4 * 15) << "70 bytes are 4 windows of 16";
    EXPECT_THAT(result.provenance.at("command"), "test");
  }
  EXPECT_THAT(labels, ElementsAre("bits=4 group=8", "bits=3 group=8", "group=8, grinqh bits=4.0",
                                  "group=8, grinqh bits=2.0"));
  const RunOutcome second = run_experiment(spec(), options());
  EXPECT_EQ(second.computed, 0);
  EXPECT_EQ(second.reused, 4);
  EXPECT_EQ(second.results, first.results);
}

TEST_F(RunnerTest, ResultsSayWhereTheyCameFrom) {
  const RunOutcome outcome = run_experiment(spec({"title=T"}), options());
  const Result rtn = read_result(outcome.results[0]), graded = read_result(outcome.results[2]);
  for (const char* key : {"version", "commit", "dirty", "host", "processor", "compiler", "libraries",
                          "threads", "started_utc", "command", "resolved_toml", "calibration"})
    EXPECT_NE(rtn.provenance.at(key), "") << key;
  EXPECT_EQ(rtn.provenance.at("experiment"), "T");
  EXPECT_EQ(rtn.provenance.at("text_digest"), digest_of(read_file((folder_ / "held.txt").string(), "text")));
  EXPECT_EQ(rtn.provenance.at("model_digest"), load_model(folder_ / "model").digest);
  EXPECT_THAT(rtn.provenance.at("kernels"), ::testing::StartsWith("group_affine/cpu/"));
  EXPECT_THAT(graded.provenance.at("kernels"), ::testing::StartsWith("nested/cpu/"));
}

TEST_F(RunnerTest, AddedPointsAreComputedTheOthersReused) {
  run_experiment(spec(), options());
  const RunOutcome more = run_experiment(spec({"methods.0.bits=[4, 3, 2]"}), options());
  EXPECT_EQ(more.computed, 1);
  EXPECT_EQ(more.reused, 4);
}

TEST_F(RunnerTest, FreshComputesAgainAndGetsTheSame) {
  const RunOutcome first = run_experiment(spec(), options());
  RunOptions fresh = options();
  fresh.fresh = true;
  std::vector<ByName<Scalar>> before;
  for (const fs::path& path : first.results) before.push_back(figures(path));
  const RunOutcome second = run_experiment(spec(), fresh);
  EXPECT_EQ(second.computed, 4);
  for (size_t i = 0; i < before.size(); ++i)
    for (const auto& [name, scalar] : figures(second.results[i]))
      EXPECT_EQ(scalar.value, before[i].at(name).value);
}

TEST_F(RunnerTest, NoOrderOfComputingMatters) {
  const RunOutcome whole = run_experiment(spec(), options("whole"));
  // The last method alone first, then the rest beside it: cached statistics must not differ.
  run_experiment(spec({"methods.1.policy={ name = \"grinqh\", bits = 2.0 }", "methods.0.bits=3"}),
                 options("parts"));
  const RunOutcome parts = run_experiment(spec(), options("parts"));
  EXPECT_EQ(parts.reused, 2);
  expect_same_rows(whole.results, parts.results);
}

TEST_F(RunnerTest, WhatChangesARowChangesItsCellAndNothingElseDoes) {
  const std::vector<std::string> base = digests(spec());
  ASSERT_THAT(base, SizeIs(4));
  EXPECT_EQ(std::set(base.begin(), base.end()).size(), 4u);
  for (const char* harmless :
       {"title=other", "device=cpu", "methods.0.symmetric=false", "evaluations.0.protocol=windows"})
    EXPECT_EQ(digests(spec({harmless})), base) << harmless;
  for (const char* change :
       {"seed=1", "methods.0.group=4", "methods.0.layers=[\"*mlp*\"]", "methods.0.phase_prefill=4",
        "evaluations.0.text=other.txt", "evaluations.0.context=15", "evaluations.0.phase=prefill",
        "evaluations.0.reference=none", "evaluations.0.protocol=llama.cpp"}) {
    const std::vector<std::string> changed = digests(spec({change, "methods.0.bits=[4, 4]"}));
    EXPECT_NE(changed[0], base[0]) << change;
  }
  for (const char* change : {"calibration.windows=3", "calibration.context=15", "calibration.inputs=float",
                             "calibration.text=other.txt", "methods.1.levels=[0, 4, 8]"}) {
    const std::vector<std::string> changed = digests(spec({change}));
    EXPECT_NE(changed[2], base[2]) << change;
    EXPECT_EQ(changed[0], base[0]) << change << ": RTN is not calibrated";
  }
  testing::write_runnable_text(folder_ / "held.txt", 71);
  EXPECT_NE(digests(spec())[0], base[0]) << "the text itself";
}

TEST_F(RunnerTest, TheResolvedExperimentOfACellIsThatCell) {
  const RunOutcome outcome = run_experiment(spec(), options());
  for (const fs::path& path : outcome.results) {
    const Result result = read_result(path);
    const ExperimentSpec again =
        read_experiment(ConfigTable::parse(result.provenance.at("resolved_toml"), path.string()), ".");
    EXPECT_THAT(digests(again), ElementsAre(result.digest));
  }
}

TEST_F(RunnerTest, TransformsAreAnAxisThatTheFloatReferenceDoesNotFollow) {
  // At 8 bits per channel RTN is nearly exact: the KL against the untransformed model stays near zero.
  const std::vector<std::string> axis{
      "methods=[{ quantizer = \"rtn\", bits = [8, 7], group = 4, transform = [[], [\"fold_norms\"], "
      "[\"fold_norms\", \"rotate_hadamard\"]] }]"};
  const RunOutcome outcome = run_experiment(spec(axis), options());
  EXPECT_EQ(outcome.computed, 6);
  ASSERT_THAT(outcome.results, SizeIs(6));
  std::set<double> perplexities;
  for (size_t i = 0; i < 6; ++i) {
    const Result result = read_result(outcome.results[i]);
    EXPECT_EQ(result.integers.at("order"), static_cast<int64_t>(i)) << "in the order of the sweep";
    EXPECT_LT(result.scalars.at("kl_mean").value, 1e-2);
    perplexities.insert(result.scalars.at("perplexity").value);
    const Json row = Json::parse(result.texts.at("options"));
    EXPECT_EQ(row.contains("transform"), i % 3 != 0);
    EXPECT_EQ(result.provenance.contains("transform_logits_error"), i % 3 != 0);
    if (i % 3 == 2) {
      EXPECT_EQ(row["transform"], Json({"fold_norms", "rotate_hadamard"}));
      EXPECT_LT(std::stod(result.provenance.at("transform_logits_error")), 1e-5);
    }
    const ExperimentSpec again =
        read_experiment(ConfigTable::parse(result.provenance.at("resolved_toml"), "cell"), ".");
    EXPECT_THAT(digests(again), ElementsAre(result.digest));
  }
  EXPECT_EQ(perplexities.size(), 6u) << "the weights that were quantized differ";
  EXPECT_EQ(run_experiment(spec(axis), options()).reused, 6);
}

TEST_F(RunnerTest, TransformsAloneNeedCalibrationWindows) {
  const std::string method = "methods=[{ quantizer = \"rtn\", transform = [\"fold_norms\"] }]";
  EXPECT_NE(digests(spec({method})), digests(spec({method, "calibration.windows=3"})));
  EXPECT_REFUSED(run_experiment(spec({method, "calibration.context=65"}), options("refused")),
                 "context = 65");
}

TEST_F(RunnerTest, ADryRunLeavesNoTrace) {
  RunOptions dry = options();
  dry.dry_run = true;
  ::testing::internal::CaptureStdout();
  run_experiment(spec(), dry);
  const std::string plan = ::testing::internal::GetCapturedStdout();
  EXPECT_THAT(plan, HasSubstr("to compute model rtn bits=4 group=8\n"));
  EXPECT_FALSE(fs::exists(folder_ / "out"));
  run_experiment(spec({"methods.0.bits=4"}), options());
  ::testing::internal::CaptureStdout();
  run_experiment(spec(), dry);
  const std::string rest = ::testing::internal::GetCapturedStdout();
  EXPECT_THAT(rest, HasSubstr("finished   model rtn bits=4 group=8\n"));
  EXPECT_THAT(rest, HasSubstr("to compute model rtn bits=3 group=8\n"));
}

TEST_F(RunnerTest, MistakesShowBeforeAnythingIsComputed) {
  const auto refuse = [&](const std::vector<std::string>& overrides) {
    return testing::refusal([&] { run_experiment(spec(overrides), options("refused")); });
  };
  EXPECT_THAT(refuse({"evaluations.0.context=65"}), HasSubstr("context = 65: allowed is 2 to 64"));
  EXPECT_THAT(refuse({"calibration.context=65"}), HasSubstr("context = 65: allowed is 2 to 64"));
  EXPECT_THAT(refuse({"methods.1.policy={ name = \"grinqh\", bits = 7, levels = [0, 4] }"}),
              HasSubstr("bits = 7"));
  EXPECT_THAT(
      refuse({"methods.0.transform=[\"rotate_hadamard\"]"}),
      ::testing::AllOf(HasSubstr("transform 'rotate_hadamard'"), HasSubstr("norms still have weights")));
  EXPECT_THAT(refuse({"evaluations.0.context=64", "evaluations.0.text=other.txt", "calibration.context=64",
                      "calibration.text=short.txt"}),
              HasSubstr("short.txt"));
  testing::write_file(folder_ / "short.txt", "qxzv");
  EXPECT_THAT(refuse({"evaluations.0.text=short.txt"}), HasSubstr("short.txt: the text has 4 tokens"));
  EXPECT_THAT(refuse({"calibration.text=short.txt"}), HasSubstr("short.txt: the text has 4 tokens"));
  testing::write_file(folder_ / "bytes.txt", "abc\xff" + std::string(60, 'q'));
  EXPECT_THAT(refuse({"evaluations.0.text=bytes.txt"}), HasSubstr("bytes.txt: the text is no valid UTF-8"));
  EXPECT_FALSE(fs::exists(folder_ / "refused"));
  // A context that only calibration would need does not matter where nothing is calibrated.
  EXPECT_NO_THROW(
      run_experiment(spec({"calibration.context=65", "methods=[{ quantizer = \"rtn\" }]"}), options()));
}

TEST_F(RunnerTest, AnUnwritablePlaceShowsBeforeAnythingIsComputed) {
  testing::write_file(folder_ / "file", "");
  RunOptions blocked = options("file/out");
  EXPECT_REFUSED(run_experiment(spec(), blocked), (folder_ / "file").string());
}

TEST_F(RunnerTest, ATokenizerOfAnotherModelIsRefused) {
  auto tokenizer = testing::tiny_tokenizer();
  const int id = testing::add_word(tokenizer, "qxz");
  tokenizer["model"]["ignore_merges"] = true;
  testing::write_file(folder_ / "model" / "tokenizer.json", tokenizer.dump());
  EXPECT_REFUSED(run_experiment(spec(), options()), "held.txt", "token " + std::to_string(id), "ends at 263");
}

}  // namespace
}  // namespace grinqh
