// How a text becomes windows and which of their tokens are scored: the named protocols of perplexity.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/matrix.h"
#include "model/config.h"

namespace grinqh {

struct Windows {
  MatrixBuffer<int32_t> tokens;  // [count, context]
  int64_t first_scored = 1;      // tokens of a window before this one are not scored

  int64_t count() const { return tokens.rows(); }
  int64_t context() const { return tokens.cols(); }
};

// `windows`: [0:L], [L:2L], ..., the tail dropped, the first token of a window unscored.
// `gptq`: the same after one BOS token at the head of the stream, if the tokenizer adds one (GPTQ's
// evaluation script; L = 2048 there). `llama.cpp`: a BOS token at the head too, the first token of every
// window replaced by it, and only what the tokens of a window's second half predict is scored: its last L -
// L/2 - 1 tokens (llama-perplexity).
const std::vector<std::string>& protocols();

// `tokens` are the text's, without special tokens; `adds_bos` says whether the tokenizer would add one.
// BadInput if the text is shorter than one window; `source` names it.
Windows cut_windows(std::string_view protocol, const std::vector<int32_t>& tokens, int64_t context,
                    const ModelConfig& config, bool adds_bos, const std::string& source);

}  // namespace grinqh
