// The commands that look things up or compare: list, describe, report, eval, check, tokenize.
#include <cmath>

#include <fmt/format.h>

#include "cli/sweep.h"
#include "model_files.h"
#include "runnable_model.h"
#include "store/columns.h"

namespace grinqh {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using testing::embedded;
using testing::Finished;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::run;
using ::testing::SizeIs;
using testing::source_dir;
using ::testing::StartsWith;
using testing::TempDir;
namespace fs = std::filesystem;

TEST(Commands, HelpAndVersion) {
  for (const testing::Words& words : {testing::Words{}, {"--help"}, {"help"}}) {
    const Finished help = run(words);
    EXPECT_EQ(help.status, 0);
    for (const char* command : {"run ", "report ", "eval ", "check ", "generate ", "bench forward "})
      EXPECT_THAT(help.out, HasSubstr("\n  " + std::string(command)));
  }
  EXPECT_THAT(run({"--version"}).out, StartsWith("grinqh "));
  for (const char* command : {"run", "report", "list", "describe", "eval", "check", "tokenize", "generate"}) {
    const Finished help = run({command, "--help"});
    EXPECT_EQ(help.status, 0);
    EXPECT_THAT(help.out, StartsWith("usage: grinqh " + std::string(command)));
  }
}

TEST(Commands, ListAndDescribe) {
  const std::map<std::string, std::string> known{{"models", "LlamaForCausalLM"}, {"quantizers", "rtn"},
                                                 {"policies", "uniform"},        {"evaluators", "perplexity"},
                                                 {"collectors", "histogram"},    {"layouts", "group_affine"},
                                                 {"kernels", "group_affine/cpu"}};
  for (const auto& [kind, name] : known) {
    const Finished list = run({"list", kind});
    EXPECT_EQ(list.status, 0);
    EXPECT_THAT(list.out, HasSubstr(name)) << kind;
  }
  const Finished rtn = run({"describe", "rtn"});
  EXPECT_EQ(rtn.status, 0);
  EXPECT_THAT(rtn.out, AllOf(HasSubstr("rtn (quantizers)"), HasSubstr("bits"), HasSubstr("2 to 8"),
                             HasSubstr("default 4"), HasSubstr("symmetric")));
  EXPECT_THAT(run({"describe", "grinqh"}).out,
              AllOf(HasSubstr("grinqh (quantizers)"), HasSubstr("grinqh (policies)"),
                    HasSubstr("'input' or 'output'"), HasSubstr("'magnitude' or 'error'")));
  testing::expect_refused({"list", "quantizer"}, {"unknown kind 'quantizer'", "did you mean 'quantizers'?"});
  testing::expect_refused({"list"}, {"KIND is missing", "usage: grinqh list"});
  testing::expect_refused({"describe", "rtm"}, {"unknown name 'rtm'", "did you mean 'rtn'?"});
}

class Report : public testing::Sweep {};

TEST_F(Report, EveryFormatHasEveryRow) {
  write("sweep.toml", toml("[[methods]]\nquantizer = \"rtn\"\nbits = [2, 8, 4]\n"));
  ASSERT_EQ(run_sweep("out").status, 0);
  const std::string out = (folder_ / "out").string();
  const std::map<std::string, std::vector<std::string>> marks{
      {"markdown", {"| rtn ", "bits=2", "bits=4", "bits=8"}},
      {"latex", {"\\begin{tabular}", "\\end{tabular}", "rtn"}},
      {"html", {"<table", "</table>", "rtn"}},
      {"csv", {"\nllama-tiny,rtn,uniform,"}},
      {"json", {"\"quantizer\": \"rtn\""}}};
  for (const auto& [format, parts] : marks) {
    const Finished report = run({"report", out, "--format", format});
    EXPECT_EQ(report.status, 0) << report.err;
    for (const std::string& part : parts) EXPECT_THAT(report.out, HasSubstr(part)) << format;
  }
  const std::string csv = run({"report", out, "--format", "csv"}).out;
  std::string header;
  for (const Column& column : kRowColumns)
    header += std::string(header.empty() ? "" : ",") + std::string(column.name);
  EXPECT_THAT(csv, StartsWith(header));
  EXPECT_EQ(std::ranges::count(csv, '\n'), 4);

  const auto kl = [&](const testing::Words& more) {
    std::vector<double> values;
    for (const Json& row : testing::report_rows(folder_ / "out", more))
      values.push_back(row.at("kl_mean").get<double>());
    return values;
  };
  const std::vector<double> sorted = kl({"--sort", "kl_mean"}), unsorted = kl({});
  EXPECT_TRUE(std::ranges::is_sorted(sorted));
  EXPECT_GT(unsorted[0], unsorted[2]) << "2 bits come first in the sweep";

  // A single file, and a file together with the folder that holds it.
  const std::string file = results("out").front().string();
  EXPECT_THAT(Json::parse(run({"report", file, "--format", "json"}).out), SizeIs(1));
  EXPECT_THAT(Json::parse(run({"report", file, out, "--format", "json"}).out), SizeIs(3));

  testing::expect_refused({"report", out, "--format", "markdwon"},
                          {"'markdwon'", "did you mean 'markdown'?"});
  testing::expect_refused({"report", out, "--sort", "kl"}, {"--sort", "'kl'", "kl_mean"});
  testing::expect_refused({"report", out + "/gone"}, {out + "/gone"});
  fs::create_directory(folder_ / "empty");
  testing::expect_refused({"report", (folder_ / "empty").string()}, {"no results (*.h5)"});
  testing::expect_refused({"report", (folder_ / "held.txt").string()}, {"held.txt"});
}

TEST(Eval, PrintsWhatItMeasured) {
  const TempDir folder;
  const std::string text = testing::write_held_out(folder / "held.txt", 1500).string();
  const testing::Words words{"eval", "--model", embedded("qwen3-tiny"), "--text", text, "--context", "64"};
  const auto with = [&](const testing::Words& more) {
    testing::Words all = words;
    all.insert(all.end(), more.begin(), more.end());
    return run(all);
  };
  const Finished json = with({"--format", "json"});
  ASSERT_EQ(json.status, 0) << json.err;
  const Json figures = Json::parse(json.out);
  EXPECT_EQ(figures.at("model"), "qwen3-tiny");
  EXPECT_EQ(figures.at("protocol"), "windows");
  EXPECT_EQ(figures.at("tokens").get<int64_t>(), figures.at("windows").get<int64_t>() * 63);
  const double perplexity = figures.at("perplexity").get<double>();
  EXPECT_GT(perplexity, 1.0);
  EXPECT_LT(perplexity, 4096.0);
  EXPECT_THAT(with({}).out, HasSubstr(fmt::format("qwen3-tiny: perplexity {:.4f} on ", perplexity)));
  const Json half = Json::parse(with({"--format", "json", "--protocol", "llama.cpp"}).out);
  EXPECT_EQ(half.at("tokens").get<int64_t>(), figures.at("windows").get<int64_t>() * 31);
}

TEST(Check, EmbeddedModelsAgreeWithTransformers) {
  for (const char* model : {"llama-tiny", "qwen3-tiny"}) {
    const Finished check = run({"check", embedded(model)});
    EXPECT_EQ(check.status, 0) << check.out << check.err;
    EXPECT_THAT(check.out, AllOf(HasSubstr(": logits: agrees"), HasSubstr(": greedy_0: agrees"),
                                 HasSubstr(": tokenizer: agrees"), Not(HasSubstr("DIFFERS"))));
  }
}

TEST(Check, SaysWhatDiffers) {
  const TempDir folder;
  fs::copy(embedded("llama-tiny"), folder / "m", fs::copy_options::recursive);
  const fs::path cases = folder / "m" / "golden" / "tokenizer_cases.json";
  Json changed = Json::parse(read_file(cases.string(), "cases"));
  changed[1]["ids"].push_back(5);
  testing::write_file(cases, changed.dump());
  fs::remove(folder / "m" / "golden" / "golden.safetensors");
  const Finished check = run({"check", (folder / "m").string()});
  EXPECT_EQ(check.status, 1);
  EXPECT_THAT(check.out, AllOf(HasSubstr("tokenizer: DIFFERS"), HasSubstr("ids of case 1")));

  fs::remove_all(folder / "m" / "golden");
  testing::expect_refused({"check", (folder / "m").string()}, {"nothing to compare with"});
  testing::expect_refused({"check", (folder / "gone").string()}, {"gone: not a folder"});
  testing::expect_refused({"check"}, {"DIR is missing"});
}

TEST(Tokenize, GivesTheIdsOfTheReference) {
  const std::string model = embedded("llama-tiny");
  const Json cases = Json::parse(read_file(model + "/golden/tokenizer_cases.json", "cases"));
  int compared = 0;
  for (const Json& each : cases) {
    const auto text = each.at("text").get<std::string>();
    if (text.empty() || text.find('\0') != std::string::npos || ++compared > 12) continue;
    EXPECT_EQ(Json::parse(run({"tokenize", "--model", model, "--text", text}).out), each.at("ids"));
    EXPECT_EQ(Json::parse(run({"tokenize", "--model", model, "--text", text, "--special"}).out),
              each.at("ids_with_special"));
  }
  EXPECT_GT(compared, 5);
  const TempDir folder;
  const std::string text = testing::write_held_out(folder / "t.txt", 300).string();
  const Finished by_file = run({"tokenize", "--model", model, "--file", text});
  EXPECT_EQ(by_file.out, run({"tokenize", "--model", model, "--text", read_file(text, "text")}).out);
  EXPECT_EQ(run({"tokenize", "--model", model}).out, "[]\n") << "standard input is empty";
  testing::expect_refused({"tokenize", "--model", model, "--file", text, "--text", "x"},
                          {"exclude each other"});
  testing::expect_refused({"tokenize", "--text", "x"}, {"--model is missing"});
  testing::expect_refused({"tokenize", "--model", model, "--file", text + "x"}, {text + "x"});
  testing::expect_refused({"tokenize", "--model", model, "--text", "\xff"}, {"no valid UTF-8"});
}

TEST(BenchForward, ComparesWithTheLibrary) {
  const testing::Words words{"bench",         "forward", "--model",   embedded("llama-tiny"),
                             "--tokens",      "256",     "--context", "128",
                             "--repetitions", "1",       "--format"};
  const auto in_format = [&](const std::string& format) {
    testing::Words all = words;
    all.push_back(format);
    const Finished finished = run(all);
    EXPECT_EQ(finished.status, 0) << finished.err;
    return finished.out;
  };
  const Json figures = Json::parse(in_format("json"));
  const auto real = [&](const char* key) { return figures.at(key).get<double>(); };
  EXPECT_GT(real("ratio"), 0.0);
  EXPECT_NEAR(real("ratio"), real("forward_gflops") / real("blas_gflops"), 1e-9);
  EXPECT_EQ(figures.at("tokens"), 256);
  // By hand, llama-tiny: 8 blocks of 786432 weights and a head of 4096 x 256, two operations a weight and
  // token; attention of 4 heads of 64 over 128 * 129 / 2 pairs in each of 2 windows and 8 blocks.
  const double linears = 2.0 * 256 * (8 * 786432 + 4096 * 256), attention = 4.0 * 4 * 64 * 8 * 2 * 8256;
  EXPECT_DOUBLE_EQ(real("operations"), linears + attention);
  EXPECT_NEAR(real("attention_share"), attention / (linears + attention), 1e-12);
  EXPECT_NEAR(real("forward_seconds") * real("forward_gflops") * 1e9, real("operations"),
              1e-9 * real("operations"));

  const std::string csv = in_format("csv");
  const std::string header = csv.substr(0, csv.find('\n')), values = csv.substr(csv.find('\n') + 1);
  EXPECT_THAT(header, StartsWith("model,tokens,context,threads,device,forward_gflops,blas_gflops,ratio,"));
  EXPECT_EQ(std::ranges::count(header, ','), std::ranges::count(values, ','));
  EXPECT_EQ(std::ranges::count(values, '\n'), 1);
  EXPECT_THAT(in_format("text"), AllOf(HasSubstr("library"), HasSubstr("ratio"), HasSubstr("attention")));

  const std::string model = embedded("llama-tiny");
  testing::expect_refused({"bench", "forward", "--model", model, "--context", "1025"},
                          {"--context 1025", "1 to 1024"});
  testing::expect_refused({"bench", "forward", "--model", model, "--tokens", "1000"},
                          {"--tokens 1000", "1024"});
  testing::expect_refused({"bench", "forward", "--model", model, "--repetitions", "0"}, {"--repetitions 0"});
  testing::expect_refused({"bench", "forward", "--model", model, "--format", "xml"}, {"'xml'", "csv"});
  testing::expect_refused({"bench"}, {"unknown command 'bench'", "bench forward"});
}

}  // namespace
}  // namespace grinqh
