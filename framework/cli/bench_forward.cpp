// grinqh bench forward: the rate of the float forward pass beside the rate that the device's library
// (OpenBLAS, cuBLASLt) reaches on the same shapes.
#include <algorithm>
#include <chrono>
#include <limits>
#include <map>

#include <fmt/format.h>

#include "cli/command.h"
#include "core/gemm.h"
#include "core/json.h"
#include "core/parallel.h"
#include "core/rng.h"
#include "core/text.h"
#include "eval/evaluator.h"
#include "runtime/transformer.h"

namespace grinqh {
namespace {

namespace po = boost::program_options;

template <class Work>
double seconds_of(const Work& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Times layers one by one, which keeps a device from running ahead.
class TimedLinears final : public LinearExecutor {
 public:
  explicit TimedLinears(const Transformer& transformer)
      : transformer_(transformer), inner_(transformer.float_linears()) {}
  void begin_batch(std::span<const Step> steps) override { inner_->begin_batch(steps); }
  void run(const LinearWeights& linear, ConstActivations x, Activations y) override {
    transformer_.synchronize();
    seconds += seconds_of([&] {
      inner_->run(linear, x, y);
      transformer_.synchronize();
    });
  }
  double seconds = 0;

 private:
  const Transformer& transformer_;
  std::unique_ptr<LinearExecutor> inner_;
};

// Wall time of one pass, by part; `head`: the output head, on a GPU with the scores that evaluations take.
struct Pass {
  double total = std::numeric_limits<double>::infinity(), linears = 0, head = 0;
};

// Rows of logits that the head makes at a time.
int64_t head_rows(const Transformer& transformer) {
  constexpr int64_t kOnDevice = 2048;
  return transformer.device().device == Device::cpu ? logit_rows(transformer.vocab()) : kOnDevice;
}

Pass time_pass(const Transformer& transformer, const Batch& batch) {
  const auto linears = transformer.float_linears();
  Tensor features;
  Pass pass;
  pass.total = seconds_of([&] {
    features = transformer.run(batch, *linears);
    transformer.synchronize();
  });
  TimedLinears timed(transformer);
  transformer.run(batch, timed);
  pass.linears = timed.seconds;
  if (transformer.device().device == Device::cpu) {
    const int64_t rows = head_rows(transformer);
    MatrixBuffer<float> logits(rows, transformer.vocab());
    pass.head = seconds_of([&] {
      for (int64_t begin = 0; begin < features.rows(); begin += rows) {
        const int64_t end = std::min(begin + rows, features.rows());
        transformer.head(features.view().rows_between(begin, end),
                         logits.view().rows_between(0, end - begin));
      }
    });
  } else {
    std::vector<TokenScore> scores(batch.tokens.size());
    pass.head = seconds_of([&] { transformer.score({features, batch.tokens}, scores); });
  }
  pass.total += pass.head;
  return pass;
}

// A product y[T, out] = x[T, in] w^T.
struct Product {
  int64_t tokens, in, out;
  auto operator<=>(const Product&) const = default;
  double operations() const {
    return 2.0 * static_cast<double>(tokens) * static_cast<double>(in) * static_cast<double>(out);
  }
};

// Every product of a pass and how often it occurs.
std::map<Product, int64_t> products_of(const Model& model, int64_t tokens, int64_t rows) {
  std::map<Product, int64_t> products;
  for (const BlockWeights& block : model.blocks)
    for (const LinearWeights* linear :
         {&block.q, &block.k, &block.v, &block.o, &block.gate, &block.up, &block.down})
      ++products[{tokens, linear->weight.cols(), linear->weight.rows()}];
  for (int64_t begin = 0; begin < tokens; begin += rows)
    ++products[{std::min(rows, tokens - begin), model.config.hidden, model.config.vocab}];
  return products;
}

// Scores and mixing of causal attention: 4 operations for each head, element, token and key up to it.
double attention_operations(const ModelConfig& config, int64_t windows, int64_t context) {
  const auto pairs = static_cast<double>(context) * static_cast<double>(context + 1) / 2;
  return 4.0 * static_cast<double>(config.layers * config.heads * config.head_dim * windows) * pairs;
}

// All blocks' attention by itself: about what it takes of a pass.
double time_attention(const ModelConfig& config, int64_t windows, int64_t context) {
  const AttentionShape shape{config.heads, config.kv_heads, config.head_dim};
  const auto random = [](int64_t rows, int64_t cols) {
    MatrixBuffer<float> matrix(rows, cols);
    Rng rng(1);
    for (int64_t i = 0; i < matrix.size(); ++i) matrix.data()[i] = static_cast<float>(rng.uniform() - 0.5);
    return matrix;
  };
  const MatrixBuffer<float> q = random(windows * context, shape.heads * shape.head_dim);
  const MatrixBuffer<float> kv = random(windows * context, shape.kv_heads * shape.head_dim);
  const MatrixBuffer<float> out(q.rows(), q.cols());
  const int64_t tasks = attention_tasks(shape, context);
  const auto block = [&] {
    parallel_for(windows * tasks, [&](int64_t i) {
      const int64_t begin = i / tasks * context, end = begin + context;
      attention_task(shape, i % tasks, q.view().rows_between(begin, end), kv.view().rows_between(begin, end),
                     kv.view().rows_between(begin, end), out.view().rows_between(begin, end));
    });
  };
  block();
  return static_cast<double>(config.layers) *
         std::min({seconds_of(block), seconds_of(block), seconds_of(block)});
}

Json measure(const Model& model, const DeviceChoice& device, int64_t tokens, int64_t context,
             int64_t repetitions) {
  const auto on_device = make_transformer(model, device);
  const Transformer& transformer = *on_device;
  const int64_t windows = tokens / context;
  MatrixBuffer<int32_t> ids(windows, context);
  Rng rng(0);
  for (int64_t i = 0; i < ids.size(); ++i)
    ids.data()[i] = static_cast<int32_t>(rng.below(static_cast<uint64_t>(model.config.vocab)));
  const Batch batch = Batch::of_windows(ids.view(), context);

  // By turns, so that whatever else the machine does meets both.
  const std::map<Product, int64_t> products = products_of(model, batch.rows(), head_rows(transformer));
  std::map<Product, double> blas;
  Pass best;
  time_pass(transformer, batch);  // pages in the weights
  for (int64_t i = 0; i < repetitions; ++i) {
    if (const Pass pass = time_pass(transformer, batch); pass.total < best.total) best = pass;
    for (const auto& [product, count] : products) {
      const double seconds = transformer.time_product(product.tokens, product.in, product.out);
      const auto [known, first] = blas.emplace(product, seconds);
      if (!first) known->second = std::min(known->second, seconds);
    }
  }
  double blas_operations = 0, blas_seconds = 0;
  for (const auto& [product, count] : products) {
    blas_operations += static_cast<double>(count) * product.operations();
    blas_seconds += static_cast<double>(count) * blas.at(product);
  }
  const double operations = blas_operations + attention_operations(model.config, windows, context);
  const double rate = operations / best.total * 1e-9, blas_rate = blas_operations / blas_seconds * 1e-9;
  const double attention =
      device.device == Device::cpu ? time_attention(model.config, windows, context) : 0.0;
  return {{"model", model.name()},
          {"tokens", batch.rows()},
          {"context", context},
          {"threads", threads()},
          {"device", to_string(device)},
          {"forward_gflops", rate},
          {"blas_gflops", blas_rate},
          {"ratio", rate / blas_rate},
          {"tokens_per_second", static_cast<double>(batch.rows()) / best.total},
          {"forward_seconds", best.total},
          {"linear_seconds", best.linears},
          {"head_seconds", best.head},
          {"other_seconds", best.total - best.linears - best.head},
          {"attention_alone_seconds", attention},
          {"operations", operations},
          {"attention_share", 1.0 - blas_operations / operations}};
}

void print(const Json& figures, const std::string& format) {
  if (format == "json") {
    fmt::print("{}\n", figures.dump(1));
  } else if (format == "csv") {
    std::vector<std::string> names, values;
    for (const auto& [name, value] : figures.items()) {
      names.push_back(name);
      values.push_back(value.is_string() ? value.get<std::string>() : value.dump());
    }
    fmt::print("{}\n{}\n", join(names, ","), join(values, ","));
  } else {
    const auto real = [&](const char* name) { return figures.at(name).get<double>(); };
    const double total = real("forward_seconds");
    fmt::print("{}: {} tokens in windows of {}, {} threads, {}\n", figures.at("model").get<std::string>(),
               figures.at("tokens").get<int64_t>(), figures.at("context").get<int64_t>(),
               figures.at("threads").get<int>(), figures.at("device").get<std::string>());
    fmt::print("forward pass  {:8.1f} GFLOPS  {:.3f} s, {:.0f} tokens/s\n", real("forward_gflops"), total,
               real("tokens_per_second"));
    fmt::print("library       {:8.1f} GFLOPS  on the shapes of its linear layers and head\n",
               real("blas_gflops"));
    fmt::print("ratio         {:8.3f}\n", real("ratio"));
    fmt::print("time: linears {:.0f}%, head {:.0f}%, other {:.0f}% (attention by itself {:.0f}%)\n",
               100 * real("linear_seconds") / total, 100 * real("head_seconds") / total,
               100 * real("other_seconds") / total, 100 * real("attention_alone_seconds") / total);
  }
}

int bench_forward(const std::vector<std::string>& words) {
  Arguments arguments(
      "bench forward --model DIR [--tokens 2048] [--context 1024] [--repetitions 3] [--threads N] "
      "[--device D] [--arithmetic A] [--format text|csv|json]");
  arguments.options()("model", po::value<std::string>(), "a Hugging Face model folder")(
      "tokens", po::value<int64_t>()->default_value(2048), "processed together, in whole windows")(
      "context", po::value<int64_t>()->default_value(1024), "tokens of a window")(
      "repetitions", po::value<int64_t>()->default_value(3), "the best counts")(
      "threads", po::value<int>()->default_value(0), "0: all that the machine offers")(
      "format", po::value<std::string>()->default_value("text"), "text, csv or json");
  add_device_options(arguments);
  if (!arguments.parse(words)) return 0;
  const DeviceChoice device = chosen_device(arguments);
  const std::vector<std::string> formats{"text", "csv", "json"};
  const auto format = arguments.get<std::string>("format");
  if (std::ranges::find(formats, format) == formats.end())
    arguments.refuse(unknown_name("format", format, formats));
  const auto tokens = arguments.get<int64_t>("tokens"), context = arguments.get<int64_t>("context");
  const auto repetitions = arguments.get<int64_t>("repetitions");
  if (repetitions < 1 || repetitions > 1000)
    arguments.refuse(fmt::format("--repetitions {}: allowed is 1 to 1000", repetitions));
  apply_threads(arguments);
  const Model model = load_model(arguments.get<std::string>("model"));
  if (context < 1 || context > model.config.max_context)
    bad_input("--context {}: allowed is 1 to {}, the model's max_position_embeddings", context,
              model.config.max_context);
  constexpr int64_t kMaxTokens = 1 << 20;
  if (tokens < context || tokens > kMaxTokens)
    bad_input("--tokens {}: allowed is {}, one window, to {}", tokens, context, kMaxTokens);
  print(measure(model, device, tokens, context, repetitions), format);
  return 0;
}

const RegisterCommand command{
    "bench forward", "rate of the forward pass beside that of the library's products alone", bench_forward};

}  // namespace
}  // namespace grinqh
