#include "model/config.h"

#include "model_files.h"
#include "support.h"

namespace grinqh {
namespace {

using testing::TempDir;
using testing::tiny_config;
using testing::write_file;

class Config : public ::testing::Test {
 protected:
  ModelConfig read(const Json& config) { return read_text(config.dump()); }
  ModelConfig read_text(const std::string& text) {
    write_file(folder_ / "config.json", text);
    return read_model_config(folder_.path());
  }
  // One key of a valid file given another value; the message names file and key.
  void expect_refused(const std::string& key, const Json& value, std::vector<std::string> parts = {}) {
    SCOPED_TRACE(key + " = " + value.dump());
    Json config = tiny_config();
    config[key] = value;
    parts.insert(parts.end(), {(folder_ / "config.json").string(), key});
    const std::string message = testing::refusal([&] { read(config); });
    for (const std::string& part : parts) EXPECT_THAT(message, ::testing::HasSubstr(part));
  }
  void expect_rope_refused(const Json& rope, const std::vector<std::string>& parts) {
    expect_refused("rope_scaling", rope, parts);
    expect_refused("rope_parameters", rope, parts);
  }

  TempDir folder_;
};

Json llama3_rope() {
  return {{"rope_type", "llama3"},
          {"factor", 8.0},
          {"low_freq_factor", 1.0},
          {"high_freq_factor", 4.0},
          {"original_max_position_embeddings", 64},
          {"rope_theta", 500000.0}};
}

TEST_F(Config, ReadsEveryKey) {
  const ModelConfig config = read(tiny_config());
  EXPECT_EQ(config.architecture, "LlamaForCausalLM");
  EXPECT_EQ(config.vocab, 11);
  EXPECT_EQ(config.hidden, 12);
  EXPECT_EQ(config.intermediate, 10);
  EXPECT_EQ(config.layers, 1);
  EXPECT_EQ(config.heads, 4);
  EXPECT_EQ(config.kv_heads, 2);
  EXPECT_EQ(config.head_dim, 4);
  EXPECT_EQ(config.max_context, 64);
  EXPECT_EQ(config.norm_eps, 1e-5);
  EXPECT_EQ(config.rope.theta, 10000.0);
  EXPECT_FALSE(config.rope.llama3_scaling);
  EXPECT_FALSE(config.tied_head || config.qkv_bias || config.output_bias || config.mlp_bias ||
               config.qk_norm);
  EXPECT_EQ(config.bos_token, 0);
  EXPECT_EQ(config.eos_tokens, (std::vector<int64_t>{1}));
}

TEST_F(Config, DefaultsOfAbsentAndNullKeys) {
  Json json = tiny_config();
  json["hidden_size"] = 32;
  for (const char* key : {"num_key_value_heads", "tie_word_embeddings", "rope_theta", "eos_token_id"})
    json.erase(key);
  for (const char* key : {"head_dim", "bos_token_id", "quantization_config", "layer_types"})
    json[key] = nullptr;
  const ModelConfig config = read(json);
  EXPECT_EQ(config.kv_heads, 4);
  EXPECT_EQ(config.head_dim, 8);
  EXPECT_FALSE(config.tied_head);
  EXPECT_EQ(config.rope.theta, 10000.0);
  EXPECT_EQ(config.bos_token, -1);
  EXPECT_TRUE(config.eos_tokens.empty());
}

TEST_F(Config, BothStylesOfRope) {
  Json style5 = tiny_config(), style4 = tiny_config();
  style5.erase("rope_theta");
  style5.erase("rope_scaling");
  style5["rope_parameters"] = llama3_rope();
  style4["rope_theta"] = 500000;
  style4["rope_scaling"] = llama3_rope();
  style4["rope_scaling"].erase("rope_theta");
  Json older = style4;
  older["rope_scaling"].erase("rope_type");
  older["rope_scaling"]["type"] = "llama3";
  for (const Json& json : {style5, style4, older}) {
    const RopeConfig rope = read(json).rope;
    EXPECT_TRUE(rope.llama3_scaling);
    EXPECT_EQ(rope.theta, 500000.0);
    EXPECT_EQ(rope.factor, 8.0);
    EXPECT_EQ(rope.low_freq_factor, 1.0);
    EXPECT_EQ(rope.high_freq_factor, 4.0);
    EXPECT_EQ(rope.original_context, 64.0);
  }
  style5["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 1e6}};
  EXPECT_FALSE(read(style5).rope.llama3_scaling);
  EXPECT_EQ(read(style5).rope.theta, 1e6);
}

TEST_F(Config, RefusesOtherKindsOfRope) {
  for (const char* type : {"linear", "dynamic", "yarn", "longrope"}) {
    expect_rope_refused({{"rope_type", type}, {"factor", 2.0}},
                        {"'rope_type'", type, "'default' or 'llama3'"});
    expect_rope_refused({{"type", type}, {"factor", 2.0}}, {"'type'", type});
  }
  expect_rope_refused({{"full_attention", Json::object()}}, {"'full_attention' is not supported"});
  expect_rope_refused({{"rope_type", "default"}, {"partial_rotary_factor", 0.5}},
                      {"'partial_rotary_factor'"});
  expect_rope_refused("llama3", {"expected an object"});
  expect_refused("partial_rotary_factor", 0.25);
  expect_refused("rope_theta", 0);
  expect_refused("rope_theta", "10000");
  const auto expect_llama3_refused = [&](const char* key, const Json& value) {
    Json rope = llama3_rope();
    rope[key] = value;
    expect_rope_refused(rope, {std::string("'") + key + "'"});
    rope.erase(key);
    if (std::string(key) != "rope_theta")
      expect_rope_refused(rope, {std::string("'") + key + "' is missing"});
  };
  expect_llama3_refused("factor", 0.5);
  expect_llama3_refused("low_freq_factor", 0);
  expect_llama3_refused("high_freq_factor", 1.0);
  expect_llama3_refused("original_max_position_embeddings", 0);
  expect_llama3_refused("rope_theta", -1.0);
  Json both = tiny_config();
  both["rope_parameters"] = {{"rope_type", "default"}};
  both["rope_scaling"] = llama3_rope();
  EXPECT_REFUSED(read(both), "rope_scaling", "rope_parameters");
}

TEST_F(Config, RefusesWhatIsNotSupported) {
  expect_refused("architectures", {"LlamaForCausalML"},
                 {"unknown architecture", "did you mean 'LlamaForCausalLM'?", "Qwen3ForCausalLM"});
  expect_refused("architectures", {std::string(100, 'x') + "\n"}, {"LlamaForCausalLM"});
  expect_refused("architectures", Json::array(), {"a list of 0"});
  expect_refused("architectures", "LlamaForCausalLM", {"a list of strings"});
  expect_refused("architectures", {1});
  expect_refused("hidden_act", "gelu", {"'gelu'", "'silu'"});
  expect_refused("use_sliding_window", true, {"full attention"});
  expect_refused("layer_types", {"sliding_attention"}, {"'sliding_attention'", "'full_attention'"});
  expect_refused("layer_types", {"full_attention", "full_attention"}, {"num_hidden_layers = 1"});
  expect_refused("quantization_config", {{"quant_method", "gptq"}}, {"BF16"});
}

TEST_F(Config, RefusesSizesThatCannotBe) {
  for (const char* key :
       {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "head_dim", "max_position_embeddings"})
    for (const Json& value : {Json(0), Json(-1), Json(1LL << 40), Json(1ULL << 63), Json(1.5), Json("12"),
                              Json(true), Json(Json::array({12})), Json(1e30)})
      expect_refused(key, value, {"an integer from"});
  for (const char* key : {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                          "num_attention_heads", "max_position_embeddings", "rms_norm_eps"})
    expect_refused(key, nullptr);
  expect_refused("num_key_value_heads", 3, {"divisor of num_attention_heads = 4"});
  expect_refused("head_dim", 3, {"'head_dim' is 3", "even"});
  Json json = tiny_config();
  json.erase("head_dim");
  for (const int hidden : {2, 12, 30}) {
    json["hidden_size"] = hidden;
    EXPECT_REFUSED(read(json), fmt::format("'hidden_size' is {}", hidden),
                   "multiple of num_attention_heads = 4");
  }
  expect_refused("rms_norm_eps", 0.0);
  expect_refused("rms_norm_eps", 1);
  expect_refused("rms_norm_eps", "1e-5");
  expect_refused("tie_word_embeddings", 1, {"true or false"});
  expect_refused("attention_bias", "no", {"true or false"});
}

TEST_F(Config, TokenIds) {
  expect_refused("bos_token_id", 11);
  expect_refused("bos_token_id", {0, 1}, {"one id"});
  expect_refused("eos_token_id", -1);
  expect_refused("eos_token_id", {1, "2"}, {"'eos_token_id'[1] is '2'"});
  Json json = tiny_config();
  json["bos_token_id"] = {3};
  json["eos_token_id"] = {7, 1};
  EXPECT_EQ(read(json).bos_token, 3);
  EXPECT_EQ(read(json).eos_tokens, (std::vector<int64_t>{7, 1}));
}

TEST_F(Config, GenerationConfigAddsEosTokens) {
  const auto generation = folder_ / "generation_config.json";
  write_file(generation, R"({"eos_token_id": [5, 1, 6]})");
  EXPECT_EQ(read(tiny_config()).eos_tokens, (std::vector<int64_t>{1, 5, 6}));
  write_file(generation, R"({"eos_token_id": 9})");
  EXPECT_EQ(read(tiny_config()).eos_tokens, (std::vector<int64_t>{1, 9}));
  write_file(generation, R"({"eos_token_id": null})");
  EXPECT_EQ(read(tiny_config()).eos_tokens, (std::vector<int64_t>{1}));
  write_file(generation, R"({"eos_token_id": "</s>"})");
  EXPECT_REFUSED(read(tiny_config()), generation.string(), "'eos_token_id' is '</s>'");
  write_file(generation, "[");
  EXPECT_REFUSED(read(tiny_config()), generation.string(), "not valid JSON");
}

TEST_F(Config, Biases) {
  Json json = tiny_config();
  json["attention_bias"] = true;
  ModelConfig config = read(json);
  EXPECT_TRUE(config.qkv_bias && config.output_bias && !config.mlp_bias && !config.qk_norm);
  json["mlp_bias"] = true;
  json["attention_bias"] = false;
  config = read(json);
  EXPECT_TRUE(!config.qkv_bias && !config.output_bias && config.mlp_bias);
  json["architectures"] = {"Qwen2ForCausalLM"};
  config = read(json);
  EXPECT_TRUE(config.qkv_bias && !config.output_bias && !config.mlp_bias && !config.qk_norm);
  json["architectures"] = {"Qwen3ForCausalLM"};
  config = read(json);
  EXPECT_TRUE(!config.qkv_bias && !config.output_bias && config.qk_norm);
  json["attention_bias"] = true;
  config = read(json);
  EXPECT_TRUE(config.qkv_bias && config.output_bias && config.qk_norm);
  json.erase("head_dim");
  EXPECT_REFUSED(read(json), "'head_dim' is missing", "Qwen3");
}

TEST_F(Config, RefusesFilesThatAreNoConfig) {
  const std::string file = (folder_ / "config.json").string();
  EXPECT_REFUSED(read_model_config(folder_ / "none"), (folder_ / "none").string(), "no such model folder");
  EXPECT_REFUSED(read_model_config(folder_.path()), file, "No such file");
  EXPECT_REFUSED(read_text(""), file, "not valid JSON");
  EXPECT_REFUSED(read_text("{\"vocab_size\": }"), file, "not valid JSON at byte 16");
  EXPECT_REFUSED(read_text("[1]"), file, "a list of 1, expected an object");
  EXPECT_REFUSED(read_text("{}"), file, "'architectures' is missing");
  EXPECT_REFUSED(read_text(std::string(1'000'000, '[')), file, "nested deeper");
  EXPECT_REFUSED(read_text("{\"a\": {\"b\": 1, \"b\": 2}}"), file, "'b' occurs twice");
}

}  // namespace
}  // namespace grinqh
