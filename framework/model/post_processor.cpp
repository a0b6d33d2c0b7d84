#include "model/post_processor.h"

namespace grinqh {

namespace {

constexpr const char* kSupported = "null, \"ByteLevel\", \"TemplateProcessing\", or \"Sequence\" of these";

using IsToken = std::function<bool(int64_t)>;

std::vector<int32_t> special_ids(const JsonPart& tokens, const JsonPart& name, const IsToken& is_token) {
  const JsonPart token = tokens[name.text()];
  token.only({"id", "ids", "tokens"});
  std::vector<int32_t> ids;
  for (const JsonPart& id : token["ids"].items()) {
    if (!is_token(id.integer())) id.refuse("ids of model.vocab and added_tokens");
    ids.push_back(static_cast<int32_t>(id.integer()));
  }
  return ids;
}

void add_template(const JsonPart& part, const IsToken& is_token, PostProcessor& result) {
  part.only({"type", "single", "pair", "special_tokens"});
  bool text_seen = false;
  for (const JsonPart& piece : part["single"].items()) {
    piece.only({"SpecialToken", "Sequence"});
    if (const JsonPart special = piece["SpecialToken"]; !special.absent()) {
      const std::vector<int32_t> ids = special_ids(part["special_tokens"], special["id"], is_token);
      std::vector<int32_t>& side = text_seen ? result.after : result.before;
      side.insert(side.end(), ids.begin(), ids.end());
      continue;
    }
    const JsonPart name = piece["Sequence"]["id"];
    if (name.text() != "A" || text_seen) name.refuse("\"A\", once");
    text_seen = true;
  }
  if (!text_seen) part["single"].refuse("a template with {\"Sequence\": {\"id\": \"A\"}}");
}

// `templates` counts: the library fails to apply a second one.
void add(const JsonPart& part, const IsToken& is_token, int& templates, PostProcessor& result) {
  const JsonPart type = part["type"];
  const std::string name = type.text();
  if (name == "ByteLevel") {
    part.only({"type", "add_prefix_space", "trim_offsets", "use_regex"});
  } else if (name == "TemplateProcessing") {
    if (++templates > 1) type.refuse("at most one TemplateProcessing");
    add_template(part, is_token, result);
  } else if (name == "Sequence") {
    part.only({"type", "processors"});
    for (const JsonPart& item : part["processors"].items()) add(item, is_token, templates, result);
  } else {
    type.refuse(kSupported);
  }
}

}  // namespace

PostProcessor::PostProcessor(const JsonPart& part, const IsToken& is_token) {
  int templates = 0;
  if (!part.null()) add(part, is_token, templates, *this);
}

}  // namespace grinqh
