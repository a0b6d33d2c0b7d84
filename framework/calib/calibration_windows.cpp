#include "calib/calibration_windows.h"

#include <algorithm>

#include "core/error.h"
#include "core/progress.h"
#include "runtime/generate.h"

namespace grinqh {

MatrixBuffer<int32_t> sample_windows(const Transformer& transformer, int64_t windows, int64_t context,
                                     uint64_t seed) {
  constexpr int64_t kSequences = 16;  // as many as the few-token matrix products take at once
  const ModelConfig& config = transformer.model().config;
  const int64_t first = config.bos_token >= 0       ? config.bos_token
                        : config.eos_tokens.empty() ? 0
                                                    : config.eos_tokens[0];
  MatrixBuffer<int32_t> tokens(windows, context);
  Progress progress("sampling calibration text", windows * context, "tokens");
  for (int64_t w = 0; w < windows; w += kSequences) {
    const int64_t count = std::min(kSequences, windows - w);
    MatrixBuffer<int32_t> prompts(count, 1);
    std::fill_n(prompts.data(), count, static_cast<int32_t>(first));
    const auto linears = transformer.float_linears();
    const Sampling sampling{1.0, seed, static_cast<uint64_t>(w)};
    const auto sampled =
        generate(transformer, *linears, prompts.view(), context, sampling, [&](size_t, int32_t) {
          progress.advance(1);
          return true;
        });
    for (int64_t s = 0; s < count; ++s) std::ranges::copy(sampled[static_cast<size_t>(s)], tokens.row(w + s));
  }
  return tokens;
}

MatrixBuffer<int32_t> spread_windows(const std::vector<int32_t>& tokens, int64_t windows, int64_t context) {
  const auto count = static_cast<int64_t>(tokens.size());
  check(count >= context, "a calibration text holds one window");
  MatrixBuffer<int32_t> result(windows, context);
  for (int64_t i = 0; i < windows; ++i) {
    const int64_t start = windows > 1 ? i * (count - context) / (windows - 1) : 0;
    std::copy_n(tokens.begin() + start, context, result.row(i));
  }
  return result;
}

}  // namespace grinqh
