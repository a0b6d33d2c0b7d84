// Content digests for cache keys and provenance: XXH3, 128 bits, as 32 hexadecimal digits (what `xxhsum -H2`
// prints for a file).
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace grinqh {

class Digest {
 public:
  Digest();
  ~Digest();
  Digest(Digest&&) noexcept;
  Digest& operator=(Digest&&) noexcept;

  Digest& add(std::span<const std::byte> bytes);
  // Text with its length, so that consecutive fields cannot run into each other.
  Digest& add_field(std::string_view text);
  std::string hex() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::string digest_of(std::string_view bytes);

}  // namespace grinqh
