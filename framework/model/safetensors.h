// The safetensors format: an 8-byte little-endian header length, a JSON header, then the tensors' bytes.
// https://huggingface.co/docs/safetensors (format section).
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "model/mapped_file.h"

namespace grinqh {

// One file, mapped read-only. Every entry is validated when the file is opened: a dtype of the format, size
// equal to shape x dtype, and as in the official library the tensors cover the data without overlap, hole or
// rest. BadInput names file and tensor otherwise.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);

  // F32, F16 and BF16 entries; the views live as long as this object.
  const std::map<std::string, TensorView, std::less<>>& tensors() const { return tensors_; }
  // I64 and I32 entries (token ids of golden files), widened and flattened.
  const std::map<std::string, std::vector<int64_t>, std::less<>>& integers() const { return integers_; }
  // Dtypes as the file names them, of all entries that are not in tensors().
  const std::map<std::string, std::string, std::less<>>& other_dtypes() const { return other_dtypes_; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  MappedFile file_;
  std::map<std::string, TensorView, std::less<>> tensors_;
  std::map<std::string, std::vector<int64_t>, std::less<>> integers_;
  std::map<std::string, std::string, std::less<>> other_dtypes_;
};

}  // namespace grinqh
