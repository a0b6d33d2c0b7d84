#include "eval/perplexity_of.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <vector>

#include "core/text.h"
#include "eval/evaluator.h"
#include "model/model_text.h"

namespace grinqh {

namespace {

class Scalars final : public MetricSink {
 public:
  void scalar(std::string_view name, double value, std::string_view) override { values.emplace(name, value); }
  void integer(std::string_view name, int64_t value) override {
    values.emplace(name, static_cast<double>(value));
  }
  void series(std::string_view, std::span<const double>, std::string_view) override {}
  std::map<std::string, double, std::less<>> values;
};

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// One block and the scores of the first batch that the evaluation will run.
void start_device(const Transformer& transformer, const Windows& windows) {
  const int64_t batch_windows = std::max<int64_t>(1, transformer.batch_tokens() / windows.context());
  const Matrix<const int32_t> tokens =
      windows.tokens.view().rows_between(0, std::min(batch_windows, windows.count()));
  const Batch batch = Batch::of_windows(tokens, windows.context());
  const auto linears = transformer.float_linears();
  linears->begin_batch(batch.steps);
  const Tensor x = transformer.embed(batch);
  transformer.run_block(0, batch, x, *linears, nullptr);
  transformer.final_norm(x);
  std::vector<TokenScore> scores(batch.tokens.size());
  transformer.score({x, batch.tokens}, scores);
}

}  // namespace

TextPerplexity perplexity_of(const Model& model, const std::filesystem::path& text, std::string_view protocol,
                             int64_t context, const DeviceChoice& device) {
  const ModelText tokens_of(model);
  const std::vector<int32_t> tokens = tokens_of.encode(read_file(text.string(), "text"), text.string());
  const Windows windows =
      cut_windows(protocol, tokens, context, model.config, tokens_of.adds_bos(), text.string());
  const auto load_start = std::chrono::steady_clock::now();
  const auto transformer = make_transformer(model, device);
  if (device.device != Device::cpu) start_device(*transformer, windows);
  const double load_seconds = seconds_since(load_start);
  FloatModel subject(*transformer);
  Scalars scalars;
  const auto start = std::chrono::steady_clock::now();
  Registry<Evaluator>::get()
      .make("perplexity")
      ->run({subject, nullptr, windows, context, "evaluating"}, scalars);
  return {scalars.values.at("perplexity"), static_cast<int64_t>(scalars.values.at("tokens")), windows.count(),
          seconds_since(start), load_seconds};
}

}  // namespace grinqh
