#include "model/byte_level.h"

#include <unicode/utf8.h>

#include <array>

namespace grinqh {

namespace {

constexpr int kAlphabetEnd = 256 + 68;  // first code point past the alphabet

// From code point to byte; -1 where the alphabet has no such character.
std::array<int, kAlphabetEnd> make_bytes() {
  std::array<int, kAlphabetEnd> bytes;
  bytes.fill(-1);
  int next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    bytes[printable ? byte : next++] = byte;
  }
  return bytes;
}

}  // namespace

std::optional<std::string> byte_level_bytes(std::string_view token) {
  static const std::array<int, kAlphabetEnd> alphabet = make_bytes();
  std::string bytes;
  for (size_t i = 0; i < token.size();) {
    UChar32 character;
    U8_NEXT(token.data(), i, token.size(), character);
    if (character < 0 || character >= kAlphabetEnd || alphabet[character] < 0) return std::nullopt;
    bytes += static_cast<char>(alphabet[character]);
  }
  return bytes;
}

std::string decoded_token(std::string_view token) {
  return byte_level_bytes(token).value_or(std::string(token));
}

}  // namespace grinqh
