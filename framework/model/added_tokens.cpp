#include "model/added_tokens.h"

#include <algorithm>

#include "core/error.h"
#include "model/byte_level.h"
#include "model/tokenizer_file.h"

namespace grinqh {

namespace {

AddedToken read_token(const JsonPart& part) {
  part.only({"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
  AddedToken token;
  const int64_t id = part["id"].integer();
  if (id < 0 || id > kMaxTokenId) part["id"].refuse(fmt::format("0 to {}", kMaxTokenId));
  token.id = static_cast<int32_t>(id);
  token.content = part["content"].text();
  if (token.content.empty()) part["content"].refuse("a string that is not empty");
  token.single_word = part["single_word"].boolean();
  token.left_strip = part["lstrip"].boolean();
  token.right_strip = part["rstrip"].boolean();
  token.normalized = part["normalized"].boolean();
  token.special = part["special"].boolean();
  return token;
}

}  // namespace

AddedTokens::AddedTokens(const JsonPart& part, const Vocabulary& vocabulary, const Normalizer& normalizer) {
  if (part.null()) return;
  const std::vector<JsonPart> parts = part.items();
  tokens_.reserve(parts.size());  // the matchers keep addresses
  std::string buffer;
  for (const JsonPart& item : parts) {
    AddedToken& token = tokens_.emplace_back(read_token(item));
    // The library does not read the ids: a token of the model keeps its id, others are numbered on from the
    // model's. A file that says otherwise has no single meaning.
    const auto known = vocabulary.find_token(token.content);
    const int64_t expected = known ? *known : std::max(vocabulary.count(), id_end_);
    if (token.id != expected)
      item["id"].refuse(fmt::format("{} for the token {}{}", expected, json_text(token.content),
                                    known ? ", as in model.vocab" : ", the next after model.vocab"));
    if (!by_id_.emplace(token.id, &token).second || (!known && vocabulary.contains(token.id)))
      item["id"].refuse("an id that no other token has");
    id_end_ = std::max<int64_t>(id_end_, token.id + int64_t{1});
    // As in the library, a token that is looked for in normalized text also decodes to its normalized form.
    const std::string text(token.normalized ? normalizer.apply(token.content, buffer)
                                            : std::string_view(token.content));
    token.bytes = decoded_token(text);
    const bool added = (token.normalized ? normalized_ : raw_).add(text, token);
    if (!added) item["content"].refuse("a text that no other added token has");
  }
}

const AddedToken* AddedTokens::find(int32_t id) const {
  const auto it = by_id_.find(id);
  return it == by_id_.end() ? nullptr : it->second;
}

}  // namespace grinqh
