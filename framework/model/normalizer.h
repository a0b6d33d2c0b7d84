// What is done to text before it is split: nothing, or Unicode normalization form C.
#pragma once

#include <string>
#include <string_view>

#include "model/json_part.h"

namespace grinqh {

class Normalizer {
 public:
  // BadInput for anything but null, NFC and sequences of it.
  explicit Normalizer(const JsonPart& part);

  // `text` is valid UTF-8. The result is `text` itself or lies in `buffer`.
  std::string_view apply(std::string_view text, std::string& buffer) const;

 private:
  bool nfc_ = false;
};

}  // namespace grinqh
