#include "eval/windows.h"

#include <algorithm>

#include "core/error.h"

namespace grinqh {

namespace {
constexpr const char* kWithoutBos = "windows";
}

const std::vector<std::string>& protocols() {
  static const std::vector<std::string> names{kWithoutBos, "gptq", "llama.cpp"};
  return names;
}

Windows cut_windows(std::string_view protocol, const std::vector<int32_t>& tokens, int64_t context,
                    const ModelConfig& config, bool adds_bos, const std::string& source) {
  const int64_t least = protocol == "llama.cpp" ? 3 : 2;  // leaves one token to score
  if (context < least || context > config.max_context)
    bad_input("{}: context = {}: allowed is {} to {}, the model's max_position_embeddings", source, context,
              least, config.max_context);
  if (adds_bos && protocol != kWithoutBos && config.bos_token < 0)
    bad_input("{}: protocol '{}' puts a BOS token before text: the model's config.json has no bos_token_id",
              source, protocol);
  std::vector<int32_t> stream;
  if (protocol != kWithoutBos && adds_bos) stream.push_back(static_cast<int32_t>(config.bos_token));
  stream.insert(stream.end(), tokens.begin(), tokens.end());

  const int64_t count = static_cast<int64_t>(stream.size()) / context;
  if (count == 0)
    bad_input("{}: the text has {} tokens, one window needs {}", source, stream.size(), context);
  Windows windows{MatrixBuffer<int32_t>(count, context), 1};
  std::copy_n(stream.begin(), count * context, windows.tokens.data());
  if (protocol == "llama.cpp") {
    windows.first_scored = context / 2 + 1;
    if (adds_bos)
      for (int64_t w = 0; w < count; ++w) windows.tokens.row(w)[0] = static_cast<int32_t>(config.bos_token);
  }
  return windows;
}

}  // namespace grinqh
