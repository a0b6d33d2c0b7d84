// Experiment files: what they mean, and every refusal.
#include "experiment/spec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "experiment/rehearsal.h"
#include "model_files.h"
#include "support.h"

namespace grinqh {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class Spec : public ::testing::Test {
 protected:
  Spec() {
    std::filesystem::create_directory(folder_ / "model");
    testing::write_file(folder_ / "held.txt", "text");
    testing::write_file(folder_ / "calibration.txt", "text");
  }

  // Lines 1 to 8; `more` goes on at line 9, still in the evaluation's table.
  static std::string toml(const std::string& more = "") {
    return "seed = 3\n[[models]]\npath = \"model\"\n[[methods]]\nquantizer = \"rtn\"\n"
           "[[evaluations]]\nkind = \"perplexity\"\ntext = \"held.txt\"\n" +
           more;
  }
  ExperimentSpec read(const std::string& text, const std::vector<std::string>& overrides = {}) const {
    return read_experiment(ConfigTable::parse(text, "f.toml", overrides), folder_.path());
  }

  testing::TempDir folder_;
};

TEST_F(Spec, DefaultsOfASmallExperiment) {
  const ExperimentSpec spec = read(toml());
  EXPECT_EQ(spec.title, "untitled");
  EXPECT_EQ(spec.seed, 3);
  EXPECT_EQ(spec.device.arithmetic, Arithmetic::native);
  ASSERT_EQ(spec.models.size(), 1u);
  EXPECT_EQ(spec.models[0], folder_ / "model");
  EXPECT_EQ(spec.calibration.text, "self");
  EXPECT_EQ(spec.calibration.windows, 128);
  EXPECT_EQ(spec.calibration.context, 1024);
  EXPECT_EQ(spec.calibration.inputs, CalibrationInputs::quantized);
  EXPECT_EQ(spec.calibration.gradient_windows, 100);
  EXPECT_EQ(spec.calibration.gradient_context, 512);
  ASSERT_EQ(spec.evaluations.size(), 1u);
  const EvaluationSpec& evaluation = spec.evaluations[0];
  EXPECT_EQ(evaluation.text, folder_ / "held.txt");
  EXPECT_EQ(evaluation.protocol, "windows");
  EXPECT_EQ(evaluation.context, 1024);
  EXPECT_EQ(evaluation.phase, EvaluationPhase::decode);
  EXPECT_FALSE(evaluation.reference);
}

TEST_F(Spec, EverythingThatCanBeSaid) {
  const ExperimentSpec spec = read(
      "title = \"T\"\ndevice = \"cpu\"\n[[models]]\npath = \"model\"\n[[models]]\npath = \"model\"\n"
      "[calibration]\ntext = \"calibration.txt\"\nwindows = 4\ncontext = 64\ninputs = \"float\"\n"
      "gradient_windows = 3\ngradient_context = 32\n"
      "[[methods]]\nquantizer = \"rtn\"\nbits = [4, 3]\n[[methods]]\nquantizer = \"grinqh\"\n"
      "[[evaluations]]\nkind = \"perplexity\"\ntext = \"held.txt\"\ncontext = 32\nphase = \"continuation\"\n"
      "prefill_tokens = 31\nreference = \"float\"\nprotocol = \"llama.cpp\"\n"
      "[[evaluations]]\nkind = \"perplexity\"\ntext = \"held.txt\"\nphase = \"prefill\"\n");
  EXPECT_EQ(spec.models.size(), 2u);
  EXPECT_EQ(spec.methods.size(), 3u);
  EXPECT_EQ(spec.calibration.text, folder_ / "calibration.txt");
  EXPECT_EQ(spec.calibration.windows, 4);
  EXPECT_EQ(spec.calibration.context, 64);
  EXPECT_EQ(spec.calibration.inputs, CalibrationInputs::floating);
  EXPECT_EQ(spec.calibration.gradient_windows, 3);
  EXPECT_EQ(spec.calibration.gradient_context, 32);
  ASSERT_EQ(spec.evaluations.size(), 2u);
  EXPECT_EQ(spec.evaluations[0].prompt_tokens(), 31);
  EXPECT_TRUE(spec.evaluations[0].reference);
  EXPECT_EQ(spec.evaluations[0].protocol, "llama.cpp");
  EXPECT_EQ(spec.evaluations[1].prompt_tokens(), spec.evaluations[1].context);
  EXPECT_EQ(read(toml()).evaluations[0].prompt_tokens(), 0);
}

TEST_F(Spec, PathsAreFoundFromTheWorkingDirectoryFirst) {
  const testing::TempDir here;
  testing::write_file(here / "held.txt", "text");
  const std::filesystem::path before = std::filesystem::current_path();
  std::filesystem::current_path(here.path());
  const ExperimentSpec spec = read(toml());
  std::filesystem::current_path(before);
  EXPECT_EQ(spec.evaluations[0].text, "held.txt");
  EXPECT_EQ(spec.models[0], folder_ / "model");
}

TEST_F(Spec, UnknownKeysAtEveryLevel) {
  EXPECT_REFUSED(read("sede = 1\n" + toml()), "f.toml:1", "'sede'", "did you mean 'seed'?");
  EXPECT_REFUSED(read("[model]\npath = \"x\"\n" + toml()), "f.toml:", "'model'", "did you mean 'models'?");
  EXPECT_REFUSED(read(toml("[[models]]\npaths = \"model\"\n")), "f.toml:10", "'paths'",
                 "did you mean 'path'?");
  EXPECT_REFUSED(read(toml("[calibration]\nwindow = 4\n")), "f.toml:10", "'window'",
                 "did you mean 'windows'?");
  EXPECT_REFUSED(read(toml("contxt = 4\n")), "f.toml:9", "'contxt'", "did you mean 'context'?");
  EXPECT_REFUSED(read(toml("[[methods]]\nquantizer = \"rtn\"\ngruop = 4\n")), "f.toml:11", "'gruop'",
                 "did you mean 'group'?");
}

TEST_F(Spec, MissingParts) {
  EXPECT_REFUSED(read(""), "f.toml", "at least one [[models]]");
  EXPECT_REFUSED(read("[[models]]\npath = \"model\"\n"), "f.toml", "at least one [[methods]]");
  EXPECT_REFUSED(read("[[models]]\npath = \"model\"\n[[methods]]\nquantizer = \"rtn\"\n"), "f.toml",
                 "at least one [[evaluations]]");
  EXPECT_REFUSED(read("models = []\n"), "f.toml", "models");
  EXPECT_REFUSED(read(toml("[[models]]\n")), "f.toml:9", "'path' is missing");
  EXPECT_REFUSED(read(toml("[[methods]]\nbits = 4\n")), "f.toml:9", "'quantizer' is missing");
  EXPECT_REFUSED(read(toml("[[evaluations]]\ntext = \"held.txt\"\n")), "f.toml:9", "'kind' is missing");
  EXPECT_REFUSED(read(toml("[[evaluations]]\nkind = \"perplexity\"\n")), "f.toml:9", "'text' is missing");
}

TEST_F(Spec, MissingFiles) {
  EXPECT_REFUSED(read(toml(), {"models.0.path=modle"}), "f.toml", "path = \"modle\"", "no such file",
                 folder_.path().string());
  EXPECT_REFUSED(read(toml("[[models]]\npath = \"gone\"\n")), "f.toml:10", "path = \"gone\"", "no such file");
  EXPECT_REFUSED(read(toml("[calibration]\ntext = \"gone.txt\"\n")), "f.toml:10", "text = \"gone.txt\"");
  EXPECT_REFUSED(read(toml("[[evaluations]]\nkind = \"perplexity\"\ntext = \"gone.txt\"\n")), "f.toml:11",
                 "text = \"gone.txt\"");
}

TEST_F(Spec, WrongTypes) {
  EXPECT_REFUSED(read(toml(), {"seed=1.5"}), "f.toml", "seed = 1.5", "an integer");
  EXPECT_REFUSED(read("title = 4\n" + toml()), "f.toml:1", "title = 4", "a string");
  EXPECT_REFUSED(read("models = 3\n"), "f.toml:1", "'models'", "[[models]]");
  EXPECT_REFUSED(read(toml("[[models]]\npath = 3\n")), "f.toml:10", "path = 3", "a path");
  EXPECT_REFUSED(read(toml("[[calibration]]\nwindows = 3\n")), "f.toml:9", "'calibration'", "[calibration]");
  EXPECT_REFUSED(read(toml("[calibration]\nwindows = \"3\"\n")), "f.toml:10", "windows = \"3\"",
                 "an integer");
  EXPECT_REFUSED(read(toml("[calibration]\ntext = 3\n")), "f.toml:10", "text = 3");
  EXPECT_REFUSED(read(toml("context = true\n")), "f.toml:9", "context = true", "an integer");
  EXPECT_REFUSED(read(toml("reference = true\n")), "f.toml:9", "reference = true", "a string");
  EXPECT_REFUSED(read(toml("[[evaluations]]\nkind = 3\n")), "f.toml:10", "kind = 3", "a name");
  EXPECT_REFUSED(read(toml("[[evaluations]]\nkind = \"perplexity\"\ntext = 3\n")), "f.toml:11", "text = 3");
}

TEST_F(Spec, ValuesOutOfRange) {
  EXPECT_REFUSED(read(toml(), {"seed=-1"}), "f.toml", "seed = -1", "0 to");
  EXPECT_REFUSED(read("device = \"gpu\"\n" + toml()), "f.toml:1", "'gpu'");
  EXPECT_REFUSED(read("device = \"cuda:x\"\n" + toml()), "f.toml:1", "'cuda:x'", "cuda:N");
  EXPECT_REFUSED(read("device = \"cuda:99\"\n" + toml()), "f.toml:1", "'cuda:99'");
  EXPECT_REFUSED(read("arithmetic = \"fp8\"\n" + toml()), "f.toml:1", "fp8", "fp32");
  EXPECT_REFUSED(read("device = \"cpu\"\narithmetic = \"bf16\"\n" + toml()), "f.toml:1", "'bf16'");
  EXPECT_REFUSED(read(toml("[calibration]\nwindows = 0\n")), "f.toml:10", "windows = 0", "1 to");
  EXPECT_REFUSED(read(toml("[calibration]\ncontext = 1\n")), "f.toml:10", "context = 1", "2 to");
  EXPECT_REFUSED(read(toml("[calibration]\ngradient_context = 1\n")), "f.toml:10", "gradient_context = 1",
                 "2 to");
  EXPECT_REFUSED(read(toml("[calibration]\ninputs = \"quantised\"\n")), "f.toml:10", "'quantised'",
                 "did you mean 'quantized'?");
  EXPECT_REFUSED(read(toml("context = 1\n")), "f.toml:9", "context = 1", "2 to");
  EXPECT_REFUSED(read(toml("context = 9223372036854775807\n")), "f.toml:9", "context");
  EXPECT_REFUSED(read(toml("phase = \"decoding\"\n")), "f.toml:9", "'decoding'", "did you mean 'decode'?");
  EXPECT_REFUSED(read(toml("protocol = \"window\"\n")), "f.toml:9", "'window'", "did you mean 'windows'?");
  EXPECT_REFUSED(read(toml("reference = \"floats\"\n")), "f.toml:9", "'floats'", "did you mean 'float'?");
  EXPECT_REFUSED(read(toml("[[evaluations]]\nkind = \"perplexty\"\n")), "f.toml:10", "'perplexty'",
                 "did you mean 'perplexity'?");
}

TEST_F(Spec, PromptTokensGoWithContinuation) {
  EXPECT_EQ(read(toml("context = 32\nphase = \"continuation\"\nprefill_tokens = 1\n"))
                .evaluations[0]
                .prefill_tokens,
            1);
  EXPECT_REFUSED(read(toml("phase = \"continuation\"\n")), "f.toml:", "needs prefill_tokens");
  EXPECT_REFUSED(read(toml("prefill_tokens = 4\n")), "f.toml:", "prefill_tokens = 4", "continuation");
  EXPECT_REFUSED(read(toml("phase = \"continuation\"\ncontext = 32\nprefill_tokens = 32\n")),
                 "f.toml:", "prefill_tokens = 32", "1 to 31");
  EXPECT_REFUSED(read(toml("phase = \"continuation\"\nprefill_tokens = 0\n")), "f.toml:10",
                 "prefill_tokens = 0");
}

// What only shows when quantizer and policy meet a layer.
TEST_F(Spec, RehearsalFindsWhatOptionsGetWrongTogether) {
  const auto try_out = [&](const std::string& keys) {
    const auto methods =
        expand_methods(ConfigTable::parse("[[methods]]\n" + keys, "f.toml").tables("methods").front());
    for (const MethodSpec& method : methods) rehearse(method);
  };
  EXPECT_NO_THROW(try_out("quantizer = [\"rtn\", \"grinqh\"]\ngroup = 128\n"));
  EXPECT_NO_THROW(try_out("quantizer = \"grinqh\"\npolicy = { name = \"grinqh\", bits = [0.0, 8.0] }\n"));
  EXPECT_REFUSED(
      try_out("quantizer = \"grinqh\"\nlevels = [2, 4]\npolicy = { name = \"grinqh\", bits = 6 }\n"),
      "f.toml:4", "bits = 6", "2 to 4");
  EXPECT_REFUSED(try_out("quantizer = \"rtn\"\nbits = 4\npolicy = { name = \"grinqh\", bits = 3 }\n"),
                 "f.toml:4", "bits = 3", "4");
  EXPECT_REFUSED(try_out("quantizer = \"grinqh\"\npolicy = { name = \"uniform\", level = 5 }\n"), "f.toml:3",
                 "5");
  EXPECT_REFUSED(
      try_out("quantizer = \"grinqh\"\npolicy = { name = \"grinqh\", bits = 3, levels = [0, 5] }\n"),
      "f.toml:3", "5");
  EXPECT_REFUSED(try_out("quantizer = \"grinqh\"\nphase_prefill = 3\n"), "f.toml:", "3");
}

}  // namespace
}  // namespace grinqh
