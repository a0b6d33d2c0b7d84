// The seal of a result file: 512 bytes in front of the HDF5 image, which HDF5 passes over as a "user block".
// They hold text, padded with zeros:  GRINQH result\nbytes N\nxxh3-128 HEX\n  for the N bytes that follow.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace grinqh {

std::vector<std::byte> seal(std::span<const std::byte> image);

// The image inside `file`, the bytes of the file at `path`; BadInput if they are not what was sealed.
std::span<const std::byte> check_seal(std::span<const std::byte> file, const std::filesystem::path& path);

}  // namespace grinqh
