// A file that appears under its name only when it is complete: it is written as NAME.part and renamed.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

namespace grinqh {

class PartFile {
 public:
  // Creates missing folders and an empty part; BadInput with path and reason if the place cannot be written.
  explicit PartFile(std::filesystem::path target);
  ~PartFile();  // without commit() the part is removed
  PartFile(const PartFile&) = delete;
  PartFile& operator=(const PartFile&) = delete;

  const std::filesystem::path& part() const { return part_; }  // for whoever writes the file itself

  // Replaces the part's content.
  void write(std::span<const std::byte> bytes);
  // Writes into the part, `place` bytes from its beginning; the rest stays.
  void write_at(int64_t place, std::span<const std::byte> bytes);
  // Puts the part, which nobody has open for writing any more, on the disk and under its final name.
  void commit();

 private:
  std::filesystem::path target_, part_;
  bool committed_ = false;
};

}  // namespace grinqh
