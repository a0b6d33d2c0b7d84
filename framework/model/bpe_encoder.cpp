#include "model/bpe_encoder.h"

#include <algorithm>

namespace grinqh {

namespace {

// Longer words hardly recur; more words than these are no longer looked for. Both bound the cache to some MB.
constexpr size_t kMaxCachedLength = 64;
constexpr size_t kMaxCachedWords = size_t{1} << 16;

}  // namespace

void BpeEncoder::encode(std::string_view word, std::vector<int32_t>& ids) {
  if (const auto it = cache_.find(word); it != cache_.end()) {
    ids.insert(ids.end(), cached_ids_.begin() + it->second.begin, cached_ids_.begin() + it->second.end);
    return;
  }
  const size_t start = ids.size();
  const auto whole = bpe_.ignore_merges() ? bpe_.vocabulary().find_bytes(word) : std::nullopt;
  if (whole)
    ids.push_back(*whole);
  else
    merge(word, ids);
  if (word.size() > kMaxCachedLength || cache_.size() >= kMaxCachedWords) return;
  const size_t begin = cached_ids_.size();
  cached_ids_.insert(cached_ids_.end(), ids.begin() + start, ids.end());
  cache_.emplace(word, Range{begin, cached_ids_.size()});
}

void BpeEncoder::push_candidate(int32_t position) {
  const Symbol& left = symbols_[position];
  if (left.right < 0) return;
  const int32_t right_id = symbols_[left.right].id;
  if (const Merge* merge = bpe_.merges().find(left.id, right_id)) {
    heap_.push_back({merge->rank, position, left.id, right_id, merge->id});
    std::push_heap(heap_.begin(), heap_.end());
  }
}

void BpeEncoder::merge(std::string_view word, std::vector<int32_t>& ids) {
  const auto size = static_cast<int32_t>(word.size());
  symbols_.resize(word.size());
  for (int32_t i = 0; i < size; ++i)
    symbols_[i] = {bpe_.byte_id(static_cast<unsigned char>(word[i])), i - 1, i + 1 < size ? i + 1 : -1};
  heap_.clear();
  for (int32_t i = 0; i < size; ++i) push_candidate(i);

  while (!heap_.empty()) {
    std::pop_heap(heap_.begin(), heap_.end());
    const Candidate best = heap_.back();
    heap_.pop_back();
    // Candidates are not removed when one of their two symbols is merged elsewhere. Symbols only ever grow,
    // hence equal ids at the same position are the same pair.
    Symbol& left = symbols_[best.position];
    if (left.id != best.left_id || left.right < 0 || symbols_[left.right].id != best.right_id) continue;
    Symbol& right = symbols_[left.right];
    left.id = best.merged_id;
    left.right = right.right;
    right.id = -1;
    if (left.right >= 0) symbols_[left.right].left = best.position;
    push_candidate(best.position);
    if (left.left >= 0) push_candidate(left.left);
  }
  for (int32_t i = 0; i >= 0; i = symbols_[i].right) ids.push_back(symbols_[i].id);
}

}  // namespace grinqh
