// The weights of a model folder: model.safetensors, or the shards named by model.safetensors.index.json.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "model/safetensors.h"

namespace grinqh {

class Checkpoint {
 public:
  // BadInput for a folder without weights, an index that names no file of the folder, and malformed files.
  explicit Checkpoint(const std::filesystem::path& folder);

  bool contains(std::string_view name) const { return owners_.find(name) != owners_.end(); }
  // BadInput names file and tensor if it is missing, is not of a float type or of another shape than
  // expected, or holds a value that is NaN or infinite. The view lives as long as this object.
  TensorView at(std::string_view name, const std::vector<int64_t>& expected_shape) const;
  // Of names, dtypes, shapes and contents of all float tensors; independent of the sharding.
  std::string digest() const;

 private:
  const SafetensorsFile& open(const std::filesystem::path& path);
  void read_index();

  std::filesystem::path source_;  // model.safetensors or the index
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, const SafetensorsFile*, std::less<>> owners_;  // tensors of any type
};

}  // namespace grinqh
