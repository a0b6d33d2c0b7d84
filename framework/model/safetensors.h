// The safetensors format: an 8-byte little-endian header length, a JSON header, then the tensors' bytes.
// https://huggingface.co/docs/safetensors (format section).
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/dtype.h"

namespace grinqh {

// One file, mapped read-only. Every entry is validated when the file is opened: known dtype, offsets inside the
// file, size equal to shape x dtype, no overlap; BadInput names file and tensor otherwise.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);
  ~SafetensorsFile();
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  // F32, F16 and BF16 entries.
  const std::map<std::string, TensorView, std::less<>>& tensors() const { return tensors_; }
  // I64 and I32 entries (token ids of golden files), widened.
  const std::map<std::string, std::vector<int64_t>, std::less<>>& integers() const { return integers_; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  void* map_ = nullptr;
  size_t size_ = 0;
  std::map<std::string, TensorView, std::less<>> tensors_;
  std::map<std::string, std::vector<int64_t>, std::less<>> integers_;
};

// The weights of a model folder: model.safetensors, or the shards named by model.safetensors.index.json.
class Checkpoint {
 public:
  explicit Checkpoint(const std::filesystem::path& folder);

  bool contains(std::string_view name) const { return tensors_.find(name) != tensors_.end(); }
  // BadInput names folder, tensor, the shape found and the one expected. Also BadInput for NaN or infinite values.
  TensorView at(std::string_view name, const std::vector<int64_t>& expected_shape) const;
  std::string digest() const;  // of names, dtypes, shapes and contents; independent of the sharding

 private:
  std::filesystem::path folder_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, TensorView, std::less<>> tensors_;
};

}  // namespace grinqh
