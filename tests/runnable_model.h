// A model folder that everything runs on in milliseconds: random weights, and a tokenizer of bytes.
#pragma once

#include <filesystem>
#include <string>

#include "model_files.h"
#include "tiny_tokenizer.h"

namespace grinqh::testing {

constexpr int kRunnableVocab = 264;  // of tiny_tokenizer()

inline Json runnable_config() {
  Json config = tiny_config();
  config["vocab_size"] = kRunnableVocab;
  return config;
}

inline std::vector<NamedShape> runnable_tensors() {
  std::vector<NamedShape> tensors = tiny_tensors();
  for (NamedShape& tensor : tensors)
    if (tensor.shape[0] == 11) tensor.shape[0] = kRunnableVocab;
  return tensors;
}

inline std::filesystem::path write_runnable_model(
    const std::filesystem::path& folder, const Json& config = runnable_config(),
    const std::vector<NamedShape>& tensors = runnable_tensors()) {
  std::filesystem::create_directories(folder);
  write_file(folder / "config.json", config.dump(1));
  write_file(folder / "tokenizer.json", tiny_tokenizer().dump());
  SafetensorsWriter file;
  add_tensors(file, tensors);
  file.write(folder / "model.safetensors");
  return folder;
}

// Enough text for a few windows of 16 bytes.
inline std::filesystem::path write_runnable_text(const std::filesystem::path& path, int bytes = 70) {
  std::string text;
  while (static_cast<int>(text.size()) < bytes) text += "qxz,jkv.";
  write_file(path, text.substr(0, static_cast<size_t>(bytes)));
  return path;
}

}  // namespace grinqh::testing
