#include "cuda/transformer.h"

#include <algorithm>
#include <set>
#include <typeinfo>

#include "core/backend_module.h"
#include "core/error.h"
#include "cuda/accelerator.h"
#include "cuda/backward_pass.h"
#include "cuda/decode_engine.h"
#include "cuda/kernel_bench.h"
#include "cuda/ops.h"
#include "cuda/product_timer.h"
#include "cuda/scores.h"
#include "runtime/backend.h"

namespace grinqh::cuda {

namespace {

constexpr int64_t kLogitBytes = int64_t{1} << 30;  // of logits that are held at a time

int64_t logit_rows_on_device(int64_t vocab) {
  return std::clamp<int64_t>(kLogitBytes / (vocab * 4), 16, 8192);
}

Array<float> upload_vector(const Context& context, const std::vector<float>& values) {
  return context.upload(values.data(), static_cast<int64_t>(values.size()));
}

}  // namespace

DeviceTransformer::DeviceTransformer(const Model& model, const DeviceChoice& device, DType rope_frequencies)
    : Transformer(model, rope_frequencies), context_(device), weights_(context_, model) {
  for (int64_t block = 0; block < blocks(); ++block) {
    const BlockNorms& host = norms(block);
    norms_.push_back({upload_vector(context_, host.attention), upload_vector(context_, host.mlp),
                      upload_vector(context_, host.q), upload_vector(context_, host.k)});
  }
  final_norm_ = upload_vector(context_, final_norm_weights());
  const std::span<const float> frequencies = rope().frequencies();
  frequencies_ = context_.upload(frequencies.data(), static_cast<int64_t>(frequencies.size()));
  batch_tokens_ = plan_batch_tokens();
}

// As many as fit into half of what is free: quantized weights and statistics take their part.
int64_t DeviceTransformer::plan_batch_tokens() const {
  constexpr int64_t kLeast = 2048, kMost = 16384;
  context_.synchronize();
  const int64_t each = plan_memory(model(), context_.type(), 1).activations;
  int64_t tokens = kMost;
  while (tokens > kLeast && tokens * each > memory_state().free / 2) tokens /= 2;
  return tokens;
}

std::unique_ptr<LinearExecutor> DeviceTransformer::float_linears() const {
  return std::make_unique<DeviceLinears>(context_, weights_);
}

std::unique_ptr<QuantizedExecutor> DeviceTransformer::quantized_linears(const QuantizedModel& model,
                                                                        const PrecisionPolicy* policy,
                                                                        Level prefill_level) const {
  return std::make_unique<DeviceQuantizedLinears>(context_, weights_, model, policy, prefill_level);
}

std::unique_ptr<LinearExecutor> DeviceTransformer::replaced_linears(
    std::span<const LinearWeights* const> layers, std::span<const Matrix<const float>> weights) const {
  return std::make_unique<DeviceReplacedLinears>(context_, weights_, layers, weights);
}

std::unique_ptr<LinearExecutor> DeviceTransformer::rounded_linears(
    std::span<const LinearWeights* const> layers, const ScaledRounding& rounding) const {
  return std::make_unique<DeviceReplacedLinears>(context_, weights_, layers, rounding);
}

Tensor DeviceTransformer::embed(const Batch& batch) const {
  for (const int32_t token : batch.tokens)
    check(token >= 0 && token < vocab(), "token id within the vocabulary");
  const Array<int32_t> tokens = context_.upload(batch.tokens.data(), batch.rows());
  Tensor x = allocate(batch.rows(), hidden());
  cuda::embed(tokens.data(), weights_.embedding(), view(x.view()), context_.stream());
  return x;
}

const int32_t* DeviceTransformer::positions(const Batch& batch) const {
  std::vector<int32_t> positions(batch.steps.size());
  std::ranges::transform(batch.steps, positions.begin(), &Step::position);
  if (positions != known_positions_ || positions_.count() == 0) {
    positions_ = context_.upload(positions.data(), static_cast<int64_t>(positions.size()));
    known_positions_ = std::move(positions);
  }
  return positions_.data();
}

void DeviceTransformer::turn(int64_t block, const Batch& batch, View q, View k) const {
  const Norms& norms = device_norms(block);
  const int64_t head_dim = shape().head_dim;
  const Stream stream = context_.stream();
  if (norms.q.count() > 0) rms_norm_heads(q, norms.q.data(), head_dim, eps(), stream);
  if (norms.k.count() > 0) rms_norm_heads(k, norms.k.data(), head_dim, eps(), stream);
  check(k.data == q.cols_between(q.cols, q.cols).data && k.stride == q.stride, "k beside q");
  View both = q;
  both.cols += k.cols;
  cuda::rope(both, positions(batch), frequencies_.data(), head_dim, 1.0f, stream);
}

void DeviceTransformer::attend(const Batch& batch, ConstView q, View k, View v, int64_t block, KvCache* cache,
                               View out) const {
  std::vector<SequenceSpan> spans;
  int64_t longest = 0, longest_past = 0, kv_stride = k.stride;
  bool decodes = cache != nullptr;
  for (size_t s = 0; s < batch.sequences.size(); ++s) {
    const SequenceRows& rows = batch.sequences[s];
    if (rows.count == 0) continue;
    const int64_t end = rows.first_row + rows.count, length = rows.past + rows.count;
    SequenceSpan span{rows.first_row, rows.count, rows.past, nullptr, nullptr};
    if (cache) {
      check(length <= cache->capacity(), "cache capacity");
      const View keys = view(cache->keys(block, s)), values = view(cache->values(block, s));
      cuda::copy(k.rows_between(rows.first_row, end), keys.rows_between(rows.past, length),
                 context_.stream());
      cuda::copy(v.rows_between(rows.first_row, end), values.rows_between(rows.past, length),
                 context_.stream());
      span.keys = keys.data;
      span.values = values.data;
      kv_stride = keys.stride;
    } else {
      check(rows.past == 0, "a continued sequence needs a cache");
      span.keys = k.rows_between(rows.first_row, end).data;
      span.values = v.rows_between(rows.first_row, end).data;
    }
    spans.push_back(span);
    longest = std::max(longest, rows.count);
    longest_past = std::max(longest_past, length);
    decodes = decodes && rows.count == 1;
  }
  const auto count = static_cast<int64_t>(spans.size());
  const Array<SequenceSpan> on_device = context_.upload(spans.data(), count);
  if (decodes) {
    const Bytes scratch = context_.bytes(decode_attention_scratch(shape(), count, longest_past));
    decode_attention(shape(), q, on_device.data(), count, longest_past, kv_stride, out, scratch.data(),
                     context_.stream());
  } else {
    cuda::attention(shape(), q, on_device.data(), count, longest, kv_stride, out, context_.stream());
  }
}

void DeviceTransformer::run_together(std::initializer_list<JointLayer> layers, ConstActivations x,
                                     LinearExecutor& linears) const {
  // Executors derived from it see layers one by one.
  if (typeid(linears) != typeid(DeviceLinears)) {
    for (const JointLayer& layer : layers) linears.run(layer.weights, x, layer.y);
    return;
  }
  std::vector<DeviceLinears::Part> parts;
  for (const JointLayer& layer : layers) parts.push_back({&layer.weights, view(layer.y)});
  static_cast<DeviceLinears&>(linears).run_together(parts, view(x));
}

Tensor DeviceTransformer::mix(int64_t block, const Batch& batch, ConstActivations x, LinearExecutor& linears,
                              KvCache* cache) const {
  const BlockWeights& weights = model().blocks[static_cast<size_t>(block)];
  const AttentionShape heads = shape();
  const int64_t q_width = heads.heads * heads.head_dim, kv_width = heads.kv_heads * heads.head_dim;
  const Tensor qkv = context_.tensor(x.rows, q_width + 2 * kv_width, context_.type());
  const Activations q = qkv.view().cols_between(0, q_width),
                    k = qkv.view().cols_between(q_width, q_width + kv_width),
                    v = qkv.view().cols_between(q_width + kv_width, q_width + 2 * kv_width);
  run_together({{weights.q, q}, {weights.k, k}, {weights.v, v}}, x, linears);
  turn(block, batch, view(q), view(k));
  Tensor mixed = context_.tensor(x.rows, q_width, context_.type());
  attend(batch, view(q), view(k), view(v), block, cache, view(mixed.view()));
  return mixed;
}

Tensor DeviceTransformer::activate(int64_t block, ConstActivations x, LinearExecutor& linears) const {
  const BlockWeights& weights = model().blocks[static_cast<size_t>(block)];
  const int64_t width = model().config.intermediate, next = padded(width);
  auto both = std::make_shared<Tensor>(context_.tensor(x.rows, next + width, context_.type()));
  const Activations gate = both->view().cols_between(0, width),
                    up = both->view().cols_between(next, next + width);
  run_together({{weights.gate, gate}, {weights.up, up}}, x, linears);
  silu_multiply(view(gate), view(up), view(gate), context_.stream());
  return {std::move(both), gate};
}

void DeviceTransformer::attention(int64_t block, const Batch& batch, ConstActivations x,
                                  LinearExecutor& linears, KvCache* cache, Activations out) const {
  linears.run(model().blocks[static_cast<size_t>(block)].o, mix(block, batch, x, linears, cache), out);
}

void DeviceTransformer::mlp(int64_t block, ConstActivations x, LinearExecutor& linears,
                            Activations out) const {
  linears.run(model().blocks[static_cast<size_t>(block)].down, activate(block, x, linears), out);
}

void DeviceTransformer::add_product(const LinearWeights& linear, ConstActivations x, LinearExecutor& linears,
                                    Activations stream) const {
  // Executors derived from it see every layer's output, so they must make one.
  if (typeid(linears) == typeid(DeviceLinears))
    return static_cast<DeviceLinears&>(linears).run_onto(linear, view(x), view(stream));
  const Tensor update = context_.tensor(stream.rows, stream.cols, context_.type());
  linears.run(linear, x, update);
  add_rows(view(stream), view(update.view()), context_.stream());
}

void DeviceTransformer::run_block(int64_t block, const Batch& batch, Activations x, LinearExecutor& linears,
                                  KvCache* cache) const {
  const BlockWeights& weights = model().blocks[static_cast<size_t>(block)];
  const Norms& norms = device_norms(block);
  const Tensor normalized = context_.tensor(x.rows, x.cols, context_.type());
  const View target = view(normalized.view());
  rms_norm(view(x), norms.attention.data(), eps(), target, context_.stream());
  add_product(weights.o, mix(block, batch, normalized, linears, cache), linears, x);

  rms_norm(view(x), norms.mlp.data(), eps(), target, context_.stream());
  add_product(weights.down, activate(block, normalized, linears), linears, x);
}

void DeviceTransformer::final_norm(Activations x) const {
  rms_norm(view(x), final_norm_.data(), eps(), view(x), context_.stream());
}

void DeviceTransformer::device_logits(ConstActivations features, View logits) const {
  Bytes storage;
  const ConstView head = weights_.head();
  context_.gemm().nt(in_type(context_, view(features), head.type, storage), head, logits, 1.0f, 0.0f,
                     context_.stream());
}

void DeviceTransformer::head(ConstActivations features, Matrix<float> logits) const {
  Tensor uploaded;
  if (features.device == Device::cpu) {
    uploaded = copy_of(features);
    features = uploaded.view();
  }
  const int64_t rows = std::min(features.rows, logit_rows_on_device(vocab()));
  const Tensor part = context_.tensor(rows, vocab(), Type::f32);
  for (int64_t begin = 0; begin < features.rows; begin += rows) {
    const int64_t end = std::min(begin + rows, features.rows);
    const Activations target = part.view().rows_between(0, end - begin);
    device_logits(features.rows_between(begin, end), view(target));
    copy(target, logits.rows_between(begin, end));
  }
}

void DeviceTransformer::score(const ScoreTask& task, std::span<TokenScore> scores) const {
  const auto* reference = dynamic_cast<const DeviceTransformer*>(task.reference);
  if (task.reference && !reference) return score_tokens(*this, task, scores);
  const int64_t rows = std::min(task.features.rows, logit_rows_on_device(vocab()));
  const Tensor logits = context_.tensor(rows, vocab(), Type::f32);
  const Tensor float_logits = context_.tensor(reference ? rows : 0, vocab(), Type::f32);
  const Array<int32_t> next = context_.upload(task.next.data(), static_cast<int64_t>(task.next.size()));
  const Array<RowScore> found = context_.array<RowScore>(task.features.rows);
  for (int64_t begin = 0; begin < task.features.rows; begin += rows) {
    const int64_t end = std::min(begin + rows, task.features.rows);
    const View subject = view(logits.view().rows_between(0, end - begin));
    device_logits(task.features.rows_between(begin, end), subject);
    ConstView original;
    if (reference) {
      const Tensor features = copy_of(task.reference_features.rows_between(begin, end));
      const View target = view(float_logits.view().rows_between(0, end - begin));
      context_.synchronize();  // the reference has a stream of its own
      reference->device_logits(features, target);
      reference->context().synchronize();
      original = target;
    }
    score_rows(subject, original, next.data() + begin, found.data() + begin, context_.stream());
  }
  std::vector<RowScore> host(static_cast<size_t>(task.features.rows));
  cuda::to_host(found.data(), host.data(), static_cast<int64_t>(host.size() * sizeof(RowScore)),
                context_.stream());
  for (size_t i = 0; i < host.size(); ++i)
    if (task.next[i] >= 0) scores[i] = {host[i].nll, host[i].nll_float, host[i].kl, host[i].same_top != 0};
}

std::vector<double> DeviceTransformer::backward(const Batch& batch, const GradientObserver& observe) const {
  return BackwardPass(*this, batch, observe).run();
}

KvCache DeviceTransformer::make_cache(int64_t sequences, int64_t capacity) const {
  const int64_t rows = 2 * blocks() * sequences * capacity;
  return {blocks(), sequences, capacity,
          context_.tensor(rows, shape().kv_heads * shape().head_dim, context_.type())};
}

std::unique_ptr<Decoder> DeviceTransformer::make_decoder(LinearExecutor& linears,
                                                         const DecodePlan& plan) const {
  std::string why_not;
  if (auto engine = make_decode_engine(*this, linears, plan, why_not)) return engine;
  static std::set<std::string> told;
  if (told.insert(why_not).second) fmt::print(stderr, "decoding layer by layer: {}\n", why_not);
  return Transformer::make_decoder(linears, plan);
}

double DeviceTransformer::squared_distance(ConstActivations a, ConstActivations b) const {
  constexpr int64_t kScratch = 4096;
  const Array<double> sum = context_.array<double>(1 + kScratch);
  cuda::squared_distance(view(a), view(b), sum.data(), sum.data() + 1, context_.stream());
  double result = 0;
  cuda::to_host(sum.data(), &result, sizeof(result), context_.stream());
  return result;
}

bool DeviceTransformer::all_finite(ConstActivations x) const {
  const Array<int32_t> flag = context_.array<int32_t>(1);
  fill_zero(flag.data(), sizeof(int32_t), context_.stream());
  find_not_finite(view(x), flag.data(), context_.stream());
  int32_t found = 0;
  cuda::to_host(flag.data(), &found, sizeof(found), context_.stream());
  return found == 0;
}

double DeviceTransformer::time_product(int64_t tokens, int64_t in, int64_t out) const {
  return cuda::time_product(context_, tokens, in, out);
}

namespace {

const RegisterCudaDevices devices{device_count};

const RegisterBackend backend{
    Device::cuda,
    {[](const Model& model, const DeviceChoice& device,
        DType rope_frequencies) -> std::unique_ptr<Transformer> {
       return std::make_unique<DeviceTransformer>(model, device, rope_frequencies);
     },
     [](const DeviceChoice& device) { return make_accelerator(device.index); },
     [](const DeviceChoice& device) { return device_description(device.index); }, make_kernel_bench,
     [](const DeviceChoice& device) { return peak_bytes(device.index); }}};

}  // namespace
}  // namespace grinqh::cuda
