#include "model/pre_tokenizer.h"

#include "core/error.h"
#include "model/regex_pattern.h"

namespace grinqh {

namespace {

constexpr const char* kSupported = "\"ByteLevel\", or \"Sequence\" of \"Split\" and a last \"ByteLevel\"";

// The pattern of GPT-2 (openai/gpt-2, encoder.py), which ByteLevel uses with use_regex.
constexpr const char* kGpt2 = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

}  // namespace

PreTokenizer::PreTokenizer(const JsonPart& part, const std::string& file) {
  if (part.null()) part.refuse(kSupported);
  std::vector<JsonPart> parts{part};
  if (part["type"].text() == "Sequence") {
    part.only({"type", "pretokenizers"});
    parts = part["pretokenizers"].items();
    if (parts.empty()) part["pretokenizers"].refuse(kSupported);
  }
  for (const JsonPart& item : parts) {
    const JsonPart type = item["type"];
    const bool last = &item == &parts.back();
    if (type.text() != (last ? "ByteLevel" : "Split")) type.refuse(kSupported);
    if (last)
      add_byte_level(item, file);
    else
      add_split(item, file);
  }
}

void PreTokenizer::add_split(const JsonPart& part, const std::string& file) {
  part.only({"type", "pattern", "behavior", "invert"});
  part["pattern"].only({"Regex"});
  if (const JsonPart behavior = part["behavior"]; behavior.text() != "Isolated")
    behavior.refuse("\"Isolated\"");
  if (const JsonPart invert = part["invert"]; invert.boolean()) invert.refuse("false");
  const JsonPart regex = part["pattern"]["Regex"];
  steps_.emplace_back(pcre2_pattern(regex), fmt::format("{}: {}", file, regex.path()));
}

void PreTokenizer::add_byte_level(const JsonPart& part, const std::string& file) {
  part.only({"type", "add_prefix_space", "trim_offsets", "use_regex"});
  add_prefix_space_ = part["add_prefix_space"].boolean();
  prefix_step_ = steps_.size();
  // Files from before this option have the pattern in use.
  if (const JsonPart use_regex = part["use_regex"]; !use_regex.absent() && !use_regex.boolean()) return;
  const nlohmann::json gpt2 = kGpt2;
  steps_.emplace_back(pcre2_pattern(JsonPart(gpt2, file)), fmt::format("{}: {}", file, part.path()));
}

void PreTokenizer::apply(size_t step, std::string_view text, const SplitRegex::Visit& visit) const {
  std::string prefixed;
  if (step == prefix_step_ && add_prefix_space_ && !text.starts_with(' ')) {
    prefixed.assign(" ").append(text);
    text = prefixed;
  }
  if (step == steps_.size()) return visit(text);
  steps_[step].split(text, [&](std::string_view piece) { apply(step + 1, piece, visit); });
}

}  // namespace grinqh
