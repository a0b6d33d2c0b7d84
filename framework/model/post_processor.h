// What is put around the ids of a text on request: BOS, EOS.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "model/json_part.h"

namespace grinqh {

struct PostProcessor {
  // Null, ByteLevel (which changes no ids), one TemplateProcessing and sequences of these; BadInput for
  // anything else and for ids that are no tokens. The template for pairs of texts is not used.
  PostProcessor(const JsonPart& part, const std::function<bool(int64_t id)>& is_token);

  std::vector<int32_t> before, after;
};

}  // namespace grinqh
