#include "model/model.h"

#include "model_files.h"
#include "support.h"

namespace grinqh {
namespace {

using testing::NamedShape;
using testing::SafetensorsWriter;
using testing::TempDir;
using testing::tiny_config;
using testing::tiny_tensors;
using testing::values_of;
using testing::write_tiny_model;

TEST(Model, ViewsAreTheTensorsOfTheirNames) {
  const TempDir folder;
  write_tiny_model(folder.path());
  const Model model = load_model(folder.path());
  ASSERT_EQ(model.blocks.size(), 1u);
  const BlockWeights& block = model.blocks[0];
  const std::vector<std::pair<std::string, TensorView>> views = {
      {"model.embed_tokens.weight", model.embedding},
      {"model.norm.weight", model.final_norm},
      {"lm_head.weight", model.head},
      {"model.layers.0.input_layernorm.weight", block.attention_norm},
      {"model.layers.0.post_attention_layernorm.weight", block.mlp_norm},
      {"model.layers.0.self_attn.q_proj.weight", block.q.weight},
      {"model.layers.0.self_attn.k_proj.weight", block.k.weight},
      {"model.layers.0.self_attn.v_proj.weight", block.v.weight},
      {"model.layers.0.self_attn.o_proj.weight", block.o.weight},
      {"model.layers.0.mlp.gate_proj.weight", block.gate.weight},
      {"model.layers.0.mlp.up_proj.weight", block.up.weight},
      {"model.layers.0.mlp.down_proj.weight", block.down.weight}};
  for (const auto& [name, view] : views)
    for (const NamedShape& tensor : tiny_tensors())
      if (tensor.name == name) {
        EXPECT_EQ(view.shape, tensor.shape) << name;
        EXPECT_EQ(to_float_vector(view), values_of(tensor)) << name;
      }
  EXPECT_EQ(block.down.id, "model.layers.0.mlp.down_proj");
  EXPECT_TRUE(block.q.bias.empty() && block.down.bias.empty() && block.q_norm.empty());
}

TEST(Model, ATiedHeadIsTheEmbedding) {
  const TempDir folder;
  Json config = tiny_config();
  config["tie_word_embeddings"] = true;
  write_tiny_model(folder.path(), config);
  const Model model = load_model(folder.path());
  EXPECT_EQ(model.head.bytes.data(), model.embedding.bytes.data());
}

TEST(Model, BiasesAndNormsAreReadWhereTheArchitectureHasThem) {
  const std::string block = "model.layers.0.";
  const std::vector<NamedShape> biases = {{block + "self_attn.q_proj.bias", {16}},
                                          {block + "self_attn.k_proj.bias", {8}},
                                          {block + "self_attn.v_proj.bias", {8}}};
  const TempDir folder;
  Json config = tiny_config();
  config["architectures"] = {"Qwen2ForCausalLM"};
  write_tiny_model(folder.path(), config, biases);
  const BlockWeights qwen2 = load_model(folder.path()).blocks[0];
  EXPECT_EQ(qwen2.q.bias.shape, (std::vector<int64_t>{16}));
  EXPECT_EQ(qwen2.v.bias.shape, (std::vector<int64_t>{8}));
  EXPECT_TRUE(qwen2.o.bias.empty());

  config["architectures"] = {"Qwen3ForCausalLM"};
  write_tiny_model(folder.path(), config,
                   {{block + "self_attn.q_norm.weight", {4}}, {block + "self_attn.k_norm.weight", {4}}});
  EXPECT_EQ(load_model(folder.path()).blocks[0].k_norm.shape, (std::vector<int64_t>{4}));
  write_tiny_model(folder.path(), config);
  EXPECT_REFUSED(load_model(folder.path()), "'model.layers.0.self_attn.q_norm.weight' is missing");

  config["architectures"] = {"LlamaForCausalLM"};
  config["mlp_bias"] = config["attention_bias"] = true;
  write_tiny_model(folder.path(), config, biases);
  EXPECT_REFUSED(load_model(folder.path()), "'model.layers.0.self_attn.o_proj.bias' is missing");
}

TEST(Model, RefusesAConfigThatDoesNotMatchTheWeights) {
  const TempDir folder;
  const std::string file = (folder / "model.safetensors").string();
  const auto expect_refused = [&](const char* key, int value, const std::string& tensor) {
    Json config = tiny_config();
    config[key] = value;
    write_tiny_model(folder.path(), config);
    EXPECT_REFUSED(load_model(folder.path()), file, "'" + tensor + "'");
  };
  expect_refused("vocab_size", 12, "model.embed_tokens.weight");
  expect_refused("hidden_size", 16, "model.embed_tokens.weight");
  expect_refused("intermediate_size", 11, "model.layers.0.mlp.gate_proj.weight");
  expect_refused("num_hidden_layers", 4096, "model.layers.1.input_layernorm.weight");
  expect_refused("num_attention_heads", 2, "model.layers.0.self_attn.q_proj.weight");
  expect_refused("num_key_value_heads", 4, "model.layers.0.self_attn.k_proj.weight");
  expect_refused("head_dim", 6, "model.layers.0.self_attn.q_proj.weight");
}

TEST(Model, DigestFollowsConfigAndWeights) {
  const TempDir folder;
  const auto digest_with = [&](const char* key, const Json& value) {
    Json config = tiny_config();
    config[key] = value;
    write_tiny_model(folder.path(), config);
    return load_model(folder.path()).digest;
  };
  const std::string digest = digest_with("vocab_size", 11);
  EXPECT_EQ(digest.size(), 32u);
  EXPECT_NE(digest_with("rms_norm_eps", 2e-5), digest);
  EXPECT_NE(digest_with("rope_theta", 10001), digest);
  EXPECT_NE(digest_with("eos_token_id", 2), digest);
  // The same model in other words.
  EXPECT_EQ(digest_with("rope_parameters", {{"rope_type", "default"}, {"rope_theta", 10000}}), digest);
  EXPECT_EQ(digest_with("use_cache", false), digest);
  SafetensorsWriter changed;
  for (const NamedShape& tensor : tiny_tensors()) {
    std::vector<float> values = values_of(tensor);
    if (tensor.name == "model.norm.weight") values.back() += 0.5f;
    changed.add_floats(tensor.name, tensor.shape, values);
  }
  changed.write(folder / "model.safetensors");
  EXPECT_NE(load_model(folder.path()).digest, digest);
}

TEST(Model, NameIsTheLastComponentOfTheFolder) {
  Model model;
  for (const char* folder : {"models/llama-tiny", "models/llama-tiny/", "/models/x/../llama-tiny/."}) {
    model.folder = folder;
    EXPECT_EQ(model.name(), "llama-tiny") << folder;
  }
  model.folder = ".";
  EXPECT_EQ(model.name(), std::filesystem::current_path().filename().string());
}

struct Golden {
  const char* name;
  const char* architecture;
  int64_t layers, kv_heads, head_dim, intermediate;
  bool tied, qkv_bias, qk_norm;
  DType dtype;
};

TEST(Model, GoldenModelsLoadAsTheirConfigsSay) {
  GRINQH_NEED_SHARED("golden");
  const Golden models[] = {
      {"llama_gqa_rope3", "LlamaForCausalLM", 3, 2, 16, 256, false, false, false, DType::bf16},
      {"llama_mha_tied", "LlamaForCausalLM", 2, 4, 32, 384, true, false, false, DType::f32},
      {"qwen2_bias", "Qwen2ForCausalLM", 2, 2, 32, 256, false, true, false, DType::bf16},
      {"qwen3_gqa_tied", "Qwen3ForCausalLM", 3, 2, 64, 256, true, false, true, DType::bf16},
      {"qwen3_untied", "Qwen3ForCausalLM", 2, 1, 32, 320, false, false, true, DType::f16}};
  for (const Golden& golden : models) {
    SCOPED_TRACE(golden.name);
    const Model model = load_model(testing::shared_dir() / "golden" / golden.name);
    EXPECT_EQ(model.name(), golden.name);
    EXPECT_EQ(model.config.architecture, golden.architecture);
    EXPECT_EQ(std::ssize(model.blocks), golden.layers);
    EXPECT_EQ(model.config.kv_heads, golden.kv_heads);
    EXPECT_EQ(model.config.head_dim, golden.head_dim);
    EXPECT_EQ(model.config.intermediate, golden.intermediate);
    EXPECT_EQ(model.config.tied_head, golden.tied);
    EXPECT_EQ(model.config.qkv_bias, golden.qkv_bias);
    EXPECT_EQ(model.config.qk_norm, golden.qk_norm);
    EXPECT_EQ(model.config.eos_tokens, (std::vector<int64_t>{1}));
    EXPECT_EQ(model.config.rope.llama3_scaling, std::string(golden.name) == "llama_gqa_rope3");
    EXPECT_EQ(model.blocks[0].q.weight.dtype, golden.dtype);
    EXPECT_EQ(model.blocks[0].q.bias.empty(), !golden.qkv_bias);
    EXPECT_EQ(model.blocks[0].q_norm.empty(), !golden.qk_norm);
    const SafetensorsFile outputs(model.folder / "golden.safetensors");
    EXPECT_EQ(outputs.integers().at("input_ids").size(), 2u * 96);
    EXPECT_EQ(outputs.tensors().at("logits").shape, (std::vector<int64_t>{2, 96, 320}));
  }
}

}  // namespace
}  // namespace grinqh
