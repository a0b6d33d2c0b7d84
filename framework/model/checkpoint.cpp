#include "model/checkpoint.h"

#include "core/digest.h"
#include "core/error.h"
#include "core/parallel.h"
#include "core/text.h"
#include "model/json_reader.h"

namespace grinqh {

namespace {

namespace fs = std::filesystem;

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";

bool holds(const SafetensorsFile& file, std::string_view name) {
  return file.tensors().find(name) != file.tensors().end() ||
         file.other_dtypes().find(name) != file.other_dtypes().end();
}

// A plain name: nothing that leads out of the model's folder.
bool is_file_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." &&
         name.find_first_of(std::string_view("/\\\0", 3)) == name.npos;
}

std::string did_you_mean(std::string_view name,
                         const std::map<std::string, const SafetensorsFile*, std::less<>>& known) {
  // Longer names are none that we ask for, and the distance to them would take long.
  constexpr size_t kLongest = 256;
  std::vector<std::string> candidates;
  for (const auto& [candidate, file] : known)
    if (candidate.size() <= kLongest) candidates.push_back(candidate);
  const std::string near = nearest_name(name, candidates);
  return near.empty() ? "" : fmt::format(" (there is {})", in_quotes(near));
}

}  // namespace

Checkpoint::Checkpoint(const fs::path& folder) {
  std::error_code code;
  if (!fs::is_directory(folder, code)) bad_input("{}: no such model folder", folder.string());
  if (source_ = folder / kSingleFile; fs::exists(source_, code)) {
    const SafetensorsFile& file = open(source_);
    for (const auto& [name, tensor] : file.tensors()) owners_.emplace(name, &file);
    for (const auto& [name, dtype] : file.other_dtypes()) owners_.emplace(name, &file);
  } else if (source_ = folder / kIndexFile; fs::exists(source_, code)) {
    read_index();
  } else {
    bad_input("{}: no weights: neither {} nor {} is there", folder.string(), kSingleFile, kIndexFile);
  }
}

const SafetensorsFile& Checkpoint::open(const fs::path& path) {
  return *files_.emplace_back(std::make_unique<SafetensorsFile>(path));
}

void Checkpoint::read_index() {
  const JsonObject weight_map = JsonObject::read(source_, "index of the weights").object("weight_map");
  std::map<std::string, const SafetensorsFile*> shards;
  for (const std::string& name : weight_map.keys()) {
    const std::string shard = weight_map.text(name);
    if (!is_file_name(shard))
      bad_input("{}: shard {} of tensor {} is not the name of a file in the folder", source_.string(),
                in_quotes(shard), in_quotes(name));
    auto [it, is_new] = shards.try_emplace(shard);
    if (is_new) {
      const fs::path path = source_.parent_path() / shard;
      std::error_code code;
      if (!fs::exists(path, code))
        bad_input("{}: shard {} of tensor {} is not in the folder", source_.string(), in_quotes(shard),
                  in_quotes(name));
      it->second = &open(path);
    }
    if (!holds(*it->second, name))
      bad_input("{}: tensor {} is not in its shard {}", source_.string(), in_quotes(name), in_quotes(shard));
    owners_.emplace(name, it->second);
  }
}

TensorView Checkpoint::at(std::string_view name, const std::vector<int64_t>& expected_shape) const {
  const auto owner = owners_.find(name);
  if (owner == owners_.end())
    bad_input("{}: tensor '{}' is missing{}", source_.string(), name, did_you_mean(name, owners_));
  const SafetensorsFile& file = *owner->second;
  if (const auto other = file.other_dtypes().find(name); other != file.other_dtypes().end())
    bad_input("{}: tensor '{}' has dtype {}, expected F32, F16 or BF16", file.path().string(), name,
              other->second);
  const TensorView& tensor = file.tensors().find(name)->second;
  if (tensor.shape != expected_shape)
    bad_input("{}: tensor '{}' has shape [{}], expected [{}]", file.path().string(), name,
              fmt::join(tensor.shape, ", "), fmt::join(expected_shape, ", "));
  if (const int64_t index = find_non_finite(tensor); index >= 0) {
    const auto size = static_cast<size_t>(size_of(tensor.dtype));
    const TensorView element{
        tensor.dtype, {1}, tensor.bytes.subspan(static_cast<size_t>(index) * size, size)};
    bad_input("{}: tensor '{}' holds {} at element {}, expected finite values", file.path().string(), name,
              to_float_vector(element)[0], index);
  }
  return tensor;
}

std::string Checkpoint::digest() const {
  std::vector<std::pair<std::string_view, const TensorView*>> tensors;
  for (const auto& [name, file] : owners_)
    if (const auto it = file->tensors().find(name); it != file->tensors().end())
      tensors.emplace_back(name, &it->second);
  std::vector<std::string> contents(tensors.size());
  parallel_for(static_cast<int64_t>(tensors.size()), [&](int64_t i) {
    const auto k = static_cast<size_t>(i);
    contents[k] = Digest().add(tensors[k].second->bytes).hex();
  });
  Digest digest;
  for (size_t k = 0; k < tensors.size(); ++k) {
    const auto& [name, tensor] = tensors[k];
    digest.add_field(name).add_field(to_string(tensor->dtype));
    digest.add_field(fmt::format("{}", fmt::join(tensor->shape, ","))).add_field(contents[k]);
  }
  return digest.hex();
}

}  // namespace grinqh
