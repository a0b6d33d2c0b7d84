// Bad input of every kind: exit code 2, one line, nothing computed before it, nothing finished lost.
#include <cmath>
#include <limits>

#include "cli/program.h"
#include "runnable_model.h"

namespace grinqh {
namespace {

using testing::expect_refused;
using testing::Finished;
using ::testing::HasSubstr;
using testing::SafetensorsWriter;
using ::testing::SizeIs;
using testing::TempDir;
using testing::Words;
using testing::write_file;
namespace fs = std::filesystem;

class Refusals : public ::testing::Test {
 protected:
  Refusals() {
    testing::write_runnable_model(model());
    testing::write_runnable_text(text());
    write_file(experiment(), toml());
  }

  fs::path model() const { return folder_ / "model"; }
  fs::path text() const { return folder_ / "held.txt"; }
  fs::path experiment() const { return folder_ / "e.toml"; }
  fs::path out() const { return folder_ / "out"; }

  static std::string toml(const std::string& method = "quantizer = \"rtn\"\ngroup = 8\n",
                          const std::string& evaluation = "") {
    return "[[models]]\npath = \"model\"\n[calibration]\ncontext = 16\nwindows = 2\n[[methods]]\n" + method +
           "[[evaluations]]\nkind = \"perplexity\"\ntext = \"held.txt\"\ncontext = 16\n" + evaluation;
  }
  Words run_words() const { return {"run", experiment().string(), "--out", out().string()}; }

  // `grinqh run` refuses and leaves no trace.
  void run_refused(const std::vector<std::string>& parts, const Words& more = {}) const {
    Words words = run_words();
    words.insert(words.end(), more.begin(), more.end());
    expect_refused(words, parts);
    EXPECT_FALSE(fs::exists(out()));
  }
  void experiment_refused(const std::string& text_of_it, const std::vector<std::string>& parts) const {
    write_file(experiment(), text_of_it);
    run_refused(parts);
  }
  // Every command that loads the model refuses it with the same words.
  void model_refused(const std::vector<std::string>& parts) const {
    run_refused(parts);
    const std::string name = model().string();
    expect_refused({"eval", "--model", name, "--text", text().string(), "--context", "16"}, parts);
    expect_refused({"generate", "--model", name, "--prompt", "a", "--tokens", "2"}, parts);
  }

  TempDir folder_;
};

TEST_F(Refusals, TheModelIsFineToBeginWith) { EXPECT_EQ(testing::run(run_words()).status, 0); }

TEST_F(Refusals, WeightsThatAreNotWhatTheySay) {
  const fs::path file = model() / "model.safetensors";
  const std::string whole = read_file(file.string(), "weights");
  const std::string name = file.string();

  fs::resize_file(file, whole.size() / 2);
  model_refused({name});
  write_file(file, whole.substr(0, 5));
  model_refused({name});
  write_file(file, testing::safetensors_bytes(std::string(16, '{'), ""));
  model_refused({name});

  const auto rewrite = [&](const std::function<void(SafetensorsWriter&)>& change) {
    SafetensorsWriter writer;
    testing::add_tensors(writer, testing::runnable_tensors());
    change(writer);
    writer.write(file);
  };
  rewrite([](SafetensorsWriter& writer) {
    writer.header["model.norm.weight"]["data_offsets"] = writer.header["lm_head.weight"]["data_offsets"];
  });
  model_refused({name, "model.norm.weight"});
  rewrite([](SafetensorsWriter& writer) {
    Json& offsets = writer.header["model.norm.weight"]["data_offsets"];
    offsets[0] = offsets[0].get<int64_t>() - 4;
    offsets[1] = offsets[1].get<int64_t>() - 4;
  });
  model_refused({name, "overlap"});
  rewrite([](SafetensorsWriter& writer) {
    writer.header["model.norm.weight"]["data_offsets"] = {0, int64_t{1} << 40};
  });
  model_refused({name, "model.norm.weight"});
  rewrite([](SafetensorsWriter& writer) { writer.header["model.norm.weight"]["shape"] = {6, 2}; });
  model_refused({name, "model.norm.weight", "6"});
  rewrite([](SafetensorsWriter& writer) { writer.header.erase("model.norm.weight"); });
  model_refused({name});
  for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
    rewrite([bad](SafetensorsWriter& writer) {
      const auto offset = writer.header["model.layers.0.mlp.up_proj.weight"]["data_offsets"][0].get<size_t>();
      std::memcpy(writer.data.data() + offset + 20, &bad, sizeof(bad));
    });
    model_refused({name, "model.layers.0.mlp.up_proj.weight"});
  }
}

TEST_F(Refusals, ModelFoldersThatLackSomething) {
  const fs::path config = model() / "config.json", tokenizer = model() / "tokenizer.json";
  Json changed = testing::runnable_config();
  changed["architectures"] = {"GPT2LMHeadModel"};
  write_file(config, changed.dump());
  model_refused({config.string(), "GPT2LMHeadModel", "LlamaForCausalLM"});
  changed = testing::runnable_config();
  changed["num_key_value_heads"] = 3;
  write_file(config, changed.dump());
  model_refused({config.string(), "num_key_value_heads"});
  write_file(config, "{");
  model_refused({config.string()});
  fs::remove(config);
  model_refused({config.string()});
  write_file(config, testing::runnable_config().dump());

  auto parts = testing::tiny_tokenizer();
  parts["normalizer"] = {{"type", "Lowercase"}};
  write_file(tokenizer, parts.dump());
  model_refused({tokenizer.string(), "Lowercase"});
  parts = testing::tiny_tokenizer();
  parts["model"]["type"] = "Unigram";
  write_file(tokenizer, parts.dump());
  model_refused({tokenizer.string(), "Unigram", "BPE"});
  fs::remove(tokenizer);
  model_refused({tokenizer.string()});
  write_file(tokenizer, testing::tiny_tokenizer().dump());

  const fs::path weights = model() / "model.safetensors";
  fs::rename(weights, model() / "shard-1.safetensors");
  model_refused({model().string(), "model.safetensors"});
  Json map;
  for (const testing::NamedShape& tensor : testing::runnable_tensors())
    map[tensor.name] = "shard-1.safetensors";
  map["model.norm.weight"] = "shard-2.safetensors";
  write_file(model() / "model.safetensors.index.json", Json{{"weight_map", map}}.dump());
  model_refused({"shard-2.safetensors"});
}

TEST_F(Refusals, Texts) {
  const std::string name = text().string();
  const auto text_refused = [&](const std::vector<std::string>& parts) {
    run_refused(parts);
    expect_refused({"eval", "--model", model().string(), "--text", name, "--context", "16"}, parts);
  };
  write_file(text(), "");
  text_refused({name, "0 tokens", "needs 16"});
  write_file(text(), "qxzjkvqxzjkvqxz");
  text_refused({name, "15 tokens", "needs 16"});
  write_file(text(), std::string(64, 'q') + "\xc3");
  text_refused({name, "no valid UTF-8", "offset 64"});
  fs::remove(text());
  run_refused({"e.toml:11", "text = \"held.txt\"", "no such file"});
  expect_refused({"eval", "--model", model().string(), "--text", name}, {name});
  expect_refused({"eval", "--model", model().string(), "--text", folder_.path().string()},
                 {"is a directory"});
}

TEST_F(Refusals, ExperimentFiles) {
  const std::string file = experiment().string();
  experiment_refused("title = \n", {file + ":1: not valid TOML"});
  experiment_refused("sede = 1\n" + toml(), {file + ":1", "'sede'", "did you mean 'seed'?"});
  experiment_refused(toml("quantizer = \"rtm\"\n"), {file + ":7", "'rtm'", "did you mean 'rtn'?"});
  experiment_refused(toml("quantizer = \"rtn\"\nbits = 1\n"), {file + ":8", "bits = 1", "2 to 8"});
  experiment_refused(toml("quantizer = \"rtn\"\nbits = [4, 9]\n"), {file + ":8", "bits = 9", "2 to 8"});
  experiment_refused(toml("quantizer = \"rtn\"\nbits = \"4\"\n"),
                     {file + ":8", "bits = \"4\"", "an integer"});
  experiment_refused(
      toml("quantizer = \"grinqh\"\nlevels = [0, 2, 4]\npolicy = { name = \"grinqh\", bits = 4.5 }\n"),
      {file + ":9", "bits = 4.5", "0 to 4"});
  experiment_refused(toml("quantizer = \"rtn\"\n", "phase = \"decod\"\n"),
                     {file + ":12", "'decod'", "'decode'"});
  experiment_refused("device = \"cuda\"\n" + toml(), {file + ":1", "'cuda'", "'cpu'"});
  std::string beyond = toml();
  beyond.replace(beyond.rfind("context = 16"), 12, "context = 65");
  experiment_refused(beyond, {"context = 65", "2 to 64"});
  expect_refused({"run", (folder_ / "gone.toml").string()}, {"gone.toml"});
  expect_refused({"run", folder_.path().string()}, {"is a directory"});
  expect_refused({"run", (folder_ / "gone.h5").string()}, {"gone.h5"});
}

TEST_F(Refusals, CommandLines) {
  expect_refused({"rnu"}, {"unknown command 'rnu'", "did you mean 'run'?"});
  expect_refused({"run"}, {"FILE is missing", "usage: grinqh run"});
  expect_refused({"eval", "--text", text().string()}, {"--model is missing", "usage: grinqh eval"});
  expect_refused({"eval", "--model", model().string()}, {"--text is missing"});
  const Words eval{"eval", "--model", model().string(), "--text", text().string()};
  const auto eval_refused = [&](const Words& more, const std::vector<std::string>& parts) {
    Words words = eval;
    words.insert(words.end(), more.begin(), more.end());
    expect_refused(words, parts);
  };
  eval_refused({"--context", "65"}, {"context = 65", "2 to 64"});
  eval_refused({"--context", "1"}, {"context = 1", "2 to 64"});
  eval_refused({"--context", "long"}, {"long", "context"});
  eval_refused({"--protocol", "window"}, {"'window'", "did you mean 'windows'?"});
  eval_refused({"--format", "xml"}, {"'xml'"});
  eval_refused({"--device", "cuda"}, {"--device", "'cuda'", "'cpu'"});
  eval_refused({"--device", "gpu"}, {"--device", "'gpu'"});
  eval_refused({"--threads", "-2"}, {"--threads -2"});
  eval_refused({"--treads", "2"}, {"--treads"});
  eval_refused({"surplus"}, {"unexpected 'surplus'"});
  eval_refused({"--context"}, {"--context"});
  run_refused({"--device", "'cuda'", "'cpu'"}, {"--device", "cuda"});
  run_refused({"--set bits", "KEY=VALUE"}, {"--set", "bits"});
  run_refused({"methods.7.bits=4", "list of 1"}, {"--set", "methods.7.bits=4"});
  run_refused({"--dry-rum"}, {"--dry-rum"});
  run_refused({"--threads 99999"}, {"--threads", "99999"});
}

TEST_F(Refusals, PlacesThatCannotBeWritten) {
  const std::string blocked = (text() / "results").string();
  expect_refused({"run", experiment().string(), "--out", blocked}, {blocked});
  expect_refused({"run", experiment().string(), "--out", "/proc/results"}, {"/proc/results"});
}

TEST_F(Refusals, ABadModelLeavesAGoodOneUncomputedAndFinishedCellsAlone) {
  ASSERT_EQ(testing::run(run_words()).status, 0);
  const Json rows = testing::report_rows(out());
  ASSERT_THAT(rows, SizeIs(1));

  testing::write_runnable_model(folder_ / "bad");
  fs::resize_file(folder_ / "bad" / "model.safetensors", 1000);
  write_file(experiment(),
             toml("quantizer = \"rtn\"\ngroup = 8\nbits = [4, 3]\n") + "[[models]]\npath = \"bad\"\n");
  expect_refused(run_words(), {(folder_ / "bad").string()});
  EXPECT_EQ(testing::report_rows(out()), rows) << "no further cell, and the finished one as it was";

  testing::write_runnable_model(folder_ / "bad");
  const Finished mended = testing::run(run_words());
  EXPECT_EQ(mended.status, 0) << mended.err;
  EXPECT_THAT(mended.err, HasSubstr("3 cells computed, 1 reused"));
}

}  // namespace
}  // namespace grinqh
