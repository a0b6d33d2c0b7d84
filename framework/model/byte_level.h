// The alphabet of byte-level BPE (GPT-2): tokenizer.json writes every byte as a printable character, visible
// ASCII and Latin-1 as themselves, the other 68 bytes as U+0100 onwards.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace grinqh {

// The bytes that `token` stands for, or nullopt if one of its characters is none of the 256.
std::optional<std::string> byte_level_bytes(std::string_view token);

// What a token decodes to. One that is not written in the alphabet stands for itself.
std::string decoded_token(std::string_view token);

}  // namespace grinqh
