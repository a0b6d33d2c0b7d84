// Tokens beside the model's (added_tokens).
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "model/added_token_matcher.h"
#include "model/json_part.h"
#include "model/normalizer.h"
#include "model/vocabulary.h"

namespace grinqh {

class AddedTokens {
 public:
  // BadInput for ids that are taken, out of order or other than in `vocabulary`, and for repeated tokens.
  AddedTokens(const JsonPart& part, const Vocabulary& vocabulary, const Normalizer& normalizer);
  AddedTokens(const AddedTokens&) = delete;  // the matchers refer to tokens_
  AddedTokens& operator=(const AddedTokens&) = delete;

  const AddedTokenMatcher& in_raw_text() const { return raw_; }
  const AddedTokenMatcher& in_normalized_text() const { return normalized_; }
  const AddedToken* find(int32_t id) const;
  int64_t id_end() const { return id_end_; }  // the largest id + 1, 0 without tokens

 private:
  std::vector<AddedToken> tokens_;
  std::unordered_map<int32_t, const AddedToken*> by_id_;
  AddedTokenMatcher raw_, normalized_;
  int64_t id_end_ = 0;
};

}  // namespace grinqh
