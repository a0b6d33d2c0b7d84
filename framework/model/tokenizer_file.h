// tokenizer.json as read: the two long lists of the model apart, because a document tree of some 400,000
// values would take ten times the memory of the file, and everything else as a document.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

namespace grinqh {

// Ids index dense arrays, so that a wild one in the file must not become an allocation of gigabytes.
inline constexpr int64_t kMaxTokenId = (int64_t{1} << 22) - 1;

struct TokenizerFile {
  // BadInput for what is no JSON, for duplicate keys and for a malformed vocabulary or list of merges.
  explicit TokenizerFile(const std::filesystem::path& path);

  std::string name;                                         // for messages
  nlohmann::json parts;                                     // without model.vocab and model.merges
  std::vector<std::pair<std::string, int32_t>> vocab;       // as written, ids not yet checked against another
  std::vector<std::pair<std::string, std::string>> merges;  // by rank
  bool has_merges = false;
};

}  // namespace grinqh
