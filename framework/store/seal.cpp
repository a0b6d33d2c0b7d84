#include "store/seal.h"

#include <algorithm>
#include <cstring>
#include <string_view>

#include "core/digest.h"
#include "core/error.h"

namespace grinqh {

namespace {

constexpr size_t kSealBytes = 512;  // the smallest user block of HDF5
constexpr std::string_view kMagic = "GRINQH result\n";
constexpr std::string_view kHdf5Magic = "\x89HDF\r\n\x1a\n";

std::string seal_text(std::span<const std::byte> image) {
  return fmt::format("{}bytes {}\nxxh3-128 {}\n", kMagic, image.size(), Digest().add(image).hex());
}

}  // namespace

std::vector<std::byte> seal(std::span<const std::byte> image) {
  const std::string text = seal_text(image);
  std::vector<std::byte> file(kSealBytes + image.size());
  std::memcpy(file.data(), text.data(), text.size());
  std::copy(image.begin(), image.end(), file.begin() + kSealBytes);
  return file;
}

std::span<const std::byte> check_seal(std::span<const std::byte> file, const std::filesystem::path& path) {
  const std::string_view head(reinterpret_cast<const char*>(file.data()), std::min(file.size(), kSealBytes));
  if (!head.starts_with(kMagic)) {
    if (head.starts_with(kHdf5Magic))
      bad_input("{}: an HDF5 file, but not a result of grinqh", path.string());
    bad_input("{}: not a result of grinqh (not an HDF5 file)", path.string());
  }
  const std::span<const std::byte> image = file.subspan(head.size());
  std::string expected = seal_text(image);
  expected.resize(kSealBytes, '\0');
  if (head != expected)
    bad_input("{}: damaged or changed: its {} bytes are not those that were sealed when it was written",
              path.string(), image.size());
  return image;
}

}  // namespace grinqh
