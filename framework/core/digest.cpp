#include "core/digest.h"

#include <fmt/format.h>
#include <xxhash.h>

#include "core/error.h"

namespace grinqh {

struct Digest::State {
  XXH3_state_t* xxh = XXH3_createState();
  State() { check(xxh && XXH3_128bits_reset(xxh) == XXH_OK, "digest state"); }
  ~State() { XXH3_freeState(xxh); }
};

Digest::Digest() : state_(std::make_unique<State>()) {}
Digest::~Digest() = default;
Digest::Digest(Digest&&) noexcept = default;
Digest& Digest::operator=(Digest&&) noexcept = default;

Digest& Digest::add(std::span<const std::byte> bytes) {
  XXH3_128bits_update(state_->xxh, bytes.data(), bytes.size());
  return *this;
}

Digest& Digest::add_field(std::string_view text) {
  const uint64_t size = text.size();
  add(std::as_bytes(std::span(&size, 1)));
  return add(std::as_bytes(std::span(text)));
}

std::string Digest::hex() const {
  const XXH128_hash_t hash = XXH3_128bits_digest(state_->xxh);
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

std::string digest_of(std::string_view bytes) { return Digest().add(std::as_bytes(std::span(bytes))).hex(); }

}  // namespace grinqh
