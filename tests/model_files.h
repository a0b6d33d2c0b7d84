// Model folders made by hand: what the tests of readers feed them, valid and not.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/json.h"

namespace grinqh::testing {

inline void write_file(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

template <class T>
std::string raw_bytes(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

// A safetensors file whose header need not be true to the data.
inline std::string safetensors_bytes(const std::string& header, const std::string& data) {
  return raw_bytes<uint64_t>({header.size()}) + header + data;
}

// Collects tensors one after the other, as the format wants them.
class SafetensorsWriter {
 public:
  SafetensorsWriter& add(const std::string& name, const std::string& dtype, const std::vector<int64_t>& shape,
                         const std::string& bytes) {
    header[name] = {
        {"dtype", dtype}, {"shape", shape}, {"data_offsets", {data.size(), data.size() + bytes.size()}}};
    data += bytes;
    return *this;
  }
  SafetensorsWriter& add_floats(const std::string& name, const std::vector<int64_t>& shape,
                                const std::vector<float>& values) {
    return add(name, "F32", shape, raw_bytes(values));
  }
  std::string bytes() const { return safetensors_bytes(header.dump(), data); }
  void write(const std::filesystem::path& path) const { write_file(path, bytes()); }

  Json header = Json::object();
  std::string data;
};

// One block, grouped-query attention, every width different from the others.
inline Json tiny_config() {
  return Json::parse(R"({
    "architectures": ["LlamaForCausalLM"], "vocab_size": 11, "hidden_size": 12, "intermediate_size": 10,
    "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4,
    "max_position_embeddings": 64, "rms_norm_eps": 1e-05, "hidden_act": "silu", "tie_word_embeddings": false,
    "bos_token_id": 0, "eos_token_id": 1, "rope_theta": 10000.0, "rope_scaling": null})");
}

struct NamedShape {
  std::string name;
  std::vector<int64_t> shape;
};

inline std::vector<NamedShape> tiny_tensors() {
  const std::string block = "model.layers.0.";
  return {{"model.embed_tokens.weight", {11, 12}},
          {"model.norm.weight", {12}},
          {"lm_head.weight", {11, 12}},
          {block + "input_layernorm.weight", {12}},
          {block + "post_attention_layernorm.weight", {12}},
          {block + "self_attn.q_proj.weight", {16, 12}},
          {block + "self_attn.k_proj.weight", {8, 12}},
          {block + "self_attn.v_proj.weight", {8, 12}},
          {block + "self_attn.o_proj.weight", {12, 16}},
          {block + "mlp.gate_proj.weight", {10, 12}},
          {block + "mlp.up_proj.weight", {10, 12}},
          {block + "mlp.down_proj.weight", {12, 10}}};
}

// Values that depend on the tensor's name alone, so that shards hold what the whole file does.
inline std::vector<float> values_of(const NamedShape& tensor) {
  int64_t count = 1;
  for (const int64_t extent : tensor.shape) count *= extent;
  std::seed_seq seed(tensor.name.begin(), tensor.name.end());
  std::mt19937 random(seed);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = static_cast<float>(random() % 2001) / 1000.0f - 1.0f;
  return values;
}

inline void add_tensors(SafetensorsWriter& file, const std::vector<NamedShape>& tensors) {
  for (const NamedShape& tensor : tensors) file.add_floats(tensor.name, tensor.shape, values_of(tensor));
}

inline void write_tiny_model(const std::filesystem::path& folder, const Json& config = tiny_config(),
                             const std::vector<NamedShape>& extra = {}) {
  write_file(folder / "config.json", config.dump(1));
  SafetensorsWriter file;
  add_tensors(file, tiny_tensors());
  add_tensors(file, extra);
  file.write(folder / "model.safetensors");
}

// The message of the BadInput that `run` must throw, a single line; "" (and a failure) if it does not.
template <class Run>
std::string refusal(Run&& run) {
  try {
    run();
  } catch (const BadInput& error) {
    const std::string message = error.what();
    EXPECT_EQ(message.find('\n'), message.npos) << message;
    return message;
  } catch (const std::exception& error) {
    ADD_FAILURE() << "not BadInput: " << error.what();
    return "";
  }
  ADD_FAILURE() << "nothing was refused";
  return "";
}

}  // namespace grinqh::testing

// `expression` throws BadInput whose message holds every one of the given strings.
#define EXPECT_REFUSED(expression, ...)                                                 \
  do {                                                                                  \
    const std::string message_ = grinqh::testing::refusal([&] { (void)(expression); }); \
    for (const std::string& part_ : std::vector<std::string>{__VA_ARGS__})              \
      EXPECT_THAT(message_, ::testing::HasSubstr(part_));                               \
  } while (false)
