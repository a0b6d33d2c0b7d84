// Byte-pair encoding of single words (model of type BPE).
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "model/json_part.h"
#include "model/merge_table.h"
#include "model/tokenizer_file.h"
#include "model/vocabulary.h"

namespace grinqh {

class Bpe {
 public:
  // BadInput for another type, for an option that is not implemented, and for merges outside the vocabulary.
  Bpe(const TokenizerFile& file, const JsonPart& model);

  const Vocabulary& vocabulary() const { return vocabulary_; }
  const MergeTable& merges() const { return merges_; }
  // A word that is a token is not split, whatever the merges say.
  bool ignore_merges() const { return ignore_merges_; }
  // The token of a single byte. BadInput if the vocabulary has none: the library would drop the byte.
  int32_t byte_id(unsigned char byte) const;

 private:
  std::string file_;
  Vocabulary vocabulary_;
  MergeTable merges_;
  std::array<int32_t, 256> byte_ids_;  // -1 without a token
  bool ignore_merges_ = false;
};

}  // namespace grinqh
