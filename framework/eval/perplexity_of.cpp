#include "eval/perplexity_of.h"

#include <chrono>
#include <map>

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

}  // namespace

TextPerplexity perplexity_of(const Model& model, const std::filesystem::path& text, std::string_view protocol,
                             int64_t context, const DeviceChoice& device) {
  const ModelText tokens_of(model);
  const std::vector<int32_t> tokens = tokens_of.encode(read_file(text.string(), "text"), text.string());
  const Windows windows =
      cut_windows(protocol, tokens, context, model.config, tokens_of.adds_bos(), text.string());
  const auto transformer = make_transformer(model, device);
  FloatModel subject(*transformer);
  Scalars scalars;
  const auto start = std::chrono::steady_clock::now();
  Registry<Evaluator>::get()
      .make("perplexity")
      ->run({subject, nullptr, windows, context, "evaluating"}, scalars);
  return {scalars.values.at("perplexity"), static_cast<int64_t>(scalars.values.at("tokens")), windows.count(),
          std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count()};
}

}  // namespace grinqh
