#include "quant/merge_values.h"

#include <algorithm>

#include "core/error.h"

namespace grinqh {

namespace {

int64_t sample_stride(int64_t tokens) {
  int64_t stride = 1;
  while ((tokens + stride - 1) / stride > kSampledTokens) stride *= 2;
  return stride;
}

int64_t sample_rows(int64_t tokens) {
  const int64_t stride = sample_stride(tokens);
  return (tokens + stride - 1) / stride;
}

PlainVector<float> merge_samples(const MergePart& a, const MergePart& b) {
  const auto width = [](const MergePart& part) {
    const int64_t rows = sample_rows(part.tokens), size = static_cast<int64_t>(part.values.size());
    if (rows == 0 || size % rows != 0) fail("samples of {} tokens have {} values", part.tokens, size);
    return size / rows;
  };
  const int64_t in = width(a);
  if (width(b) != in) fail("samples of {} and {} inputs do not merge", in, width(b));
  const int64_t stride = std::max(sample_stride(a.tokens + b.tokens),
                                  std::max(sample_stride(a.tokens), sample_stride(b.tokens)));
  PlainVector<float> merged;
  for (const MergePart& part : {a, b}) {
    const int64_t step = stride / sample_stride(part.tokens);
    for (int64_t row = 0; row < sample_rows(part.tokens); row += step)
      merged.insert(merged.end(), part.values.begin() + row * in, part.values.begin() + (row + 1) * in);
  }
  return merged;
}

}  // namespace

PlainVector<float> merge_values(Merge how, const MergePart& a, const MergePart& b) {
  if (how == Merge::sample) return merge_samples(a, b);
  if (a.values.size() != b.values.size())
    fail("statistics of {} and {} values do not merge", a.values.size(), b.values.size());
  PlainVector<float> merged(a.values.size());
  const double share = static_cast<double>(a.tokens) / static_cast<double>(a.tokens + b.tokens);
  for (size_t i = 0; i < merged.size(); ++i) {
    const double first = a.values[i], second = b.values[i];
    const double value = how == Merge::mean  ? share * first + (1.0 - share) * second
                         : how == Merge::sum ? first + second
                                             : std::max(first, second);
    merged[i] = static_cast<float>(value);
  }
  return merged;
}

}  // namespace grinqh
