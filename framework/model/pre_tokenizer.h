// The splitting of text into words, within which the model merges.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "model/json_part.h"
#include "model/split_regex.h"

namespace grinqh {

class PreTokenizer {
 public:
  // ByteLevel, alone or after Splits in a Sequence; BadInput for anything else.
  PreTokenizer(const JsonPart& part, const std::string& file);

  // Calls `visit` for every word of `text` (valid UTF-8) in order; the word lives for that call.
  void split(std::string_view text, const SplitRegex::Visit& visit) const { apply(0, text, visit); }

 private:
  void add_split(const JsonPart& part, const std::string& file);
  void add_byte_level(const JsonPart& part, const std::string& file);
  void apply(size_t step, std::string_view text, const SplitRegex::Visit& visit) const;

  std::vector<SplitRegex> steps_;
  bool add_prefix_space_ = false;
  size_t prefix_step_ = 0;  // the space is added to what the steps before this one have left
};

}  // namespace grinqh
