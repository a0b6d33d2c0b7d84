// The merging of words: the pair of lowest rank first, from a heap over a linked list of symbols.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "model/bpe.h"

namespace grinqh {

// One run over a text, with what is worth keeping from word to word. Not to be shared between threads.
class BpeEncoder {
 public:
  explicit BpeEncoder(const Bpe& bpe) : bpe_(bpe) {}

  // Appends the ids of `word`, which is not empty. O(n log n) in its length.
  void encode(std::string_view word, std::vector<int32_t>& ids);

 private:
  struct Symbol {
    int32_t id;           // negative once merged into its left neighbour
    int32_t left, right;  // positions of the neighbours, -1 past the ends
  };
  // Two neighbours that may be merged, as they were when they met.
  struct Candidate {
    int32_t rank, position, left_id, right_id, merged_id;
    // Reversed for the heap: the lowest rank first, at equal rank the leftmost.
    bool operator<(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : position > other.position;
    }
  };
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view word) const { return std::hash<std::string_view>()(word); }
  };
  struct Range {
    size_t begin, end;  // in cached_ids_
  };

  void merge(std::string_view word, std::vector<int32_t>& ids);
  void push_candidate(int32_t position);

  const Bpe& bpe_;
  std::vector<Symbol> symbols_;
  std::vector<Candidate> heap_;
  std::unordered_map<std::string, Range, Hash, std::equal_to<>> cache_;
  std::vector<int32_t> cached_ids_;
};

}  // namespace grinqh
