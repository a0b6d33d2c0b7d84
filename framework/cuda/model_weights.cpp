#include "cuda/model_weights.h"

#include <chrono>
#include <optional>

#include "core/error.h"
#include "core/progress.h"
#include "cuda/generated_values.h"
#include "cuda/ops.h"

namespace grinqh::cuda {

OwnedMatrix::OwnedMatrix(const Context& context, int64_t rows, int64_t cols, Type type)
    : bytes_(context.bytes(rows * padded(cols) * size_of(type))),
      view_{bytes_.data(), rows, cols, padded(cols), type} {}

namespace {

// Host rows that lie one after the other into a device matrix of the same type.
void copy_rows_up(const Context& context, const void* host, const View& to) {
  if (to.stride == to.cols) {
    // Reading a mapped checkpoint, copying it into pinned memory and its way to the device overlap.
    const int64_t bytes = to.rows * to.cols * size_of(to.type);
    context.transfers().upload(Matrix<const char>(static_cast<const char*>(host), 1, bytes),
                               static_cast<char*>(to.data), context.stream());
    return;
  }
  const auto width = static_cast<size_t>(to.cols * size_of(to.type));
  check_call(cudaMemcpy2DAsync(to.data, static_cast<size_t>(to.stride * size_of(to.type)), host, width, width,
                               static_cast<size_t>(to.rows), cudaMemcpyHostToDevice, context.stream()),
             "cudaMemcpy2DAsync");
  context.synchronize();  // the host's memory may end
}

OwnedMatrix converted(const Context& context, const void* host, int64_t rows, int64_t cols, Type from,
                      Type to) {
  OwnedMatrix matrix(context, rows, cols, from);
  copy_rows_up(context, host, matrix.view());
  if (from == to) return matrix;
  OwnedMatrix result(context, rows, cols, to);
  copy(matrix.view(), result.view(), context.stream());
  return result;
}

int64_t elements_of(const Model& model) {
  int64_t sum = model.embedding.elements() + (model.config.tied_head ? 0 : model.head.elements());
  for (const BlockWeights& block : model.blocks)
    for (const LinearWeights* linear :
         {&block.q, &block.k, &block.v, &block.o, &block.gate, &block.up, &block.down})
      sum += linear->weight.elements();
  return sum;
}

}  // namespace

OwnedMatrix upload_matrix(const Context& context, const TensorView& tensor, Type type) {
  if (tensor.generated) {
    OwnedMatrix matrix(context, tensor.rows(), tensor.cols(), type);
    generate(tensor.generated->values(), matrix.view(), context.stream());
    return matrix;
  }
  if (tensor.dtype == DType::bf16)
    return converted(context, tensor.data(), tensor.rows(), tensor.cols(), Type::bf16, type);
  return upload_matrix(context, to_float(tensor).view(), type);
}

OwnedMatrix upload_matrix(const Context& context, Matrix<const float> matrix, Type type) {
  check(matrix.stride == matrix.cols, "rows one after the other");
  return converted(context, matrix.data, matrix.rows, matrix.cols, Type::f32, type);
}

MemoryPlan plan_memory(const Model& model, Type type, int64_t tokens) {
  const ModelConfig& config = model.config;
  MemoryPlan plan;
  plan.weights = elements_of(model) * size_of(type);
  // The stream and its norm and update, q, k, v and the mix, gate and up, and half as much again for masked
  // inputs and differences of weights.
  const int64_t floats = 2 * config.hidden * 4;
  const int64_t typed =
      2 * config.hidden + 2 * (config.heads + config.kv_heads) * config.head_dim + 2 * config.intermediate;
  plan.activations = tokens * (floats + typed * size_of(type)) * 3 / 2;
  return plan;
}

ModelWeights::ModelWeights(const Context& context, const Model& model) : tied_(model.config.tied_head) {
  constexpr int64_t kLeastTokens = 2048;
  const Type type = context.type();
  const MemoryPlan plan = plan_memory(model, type, kLeastTokens);
  const MemoryState memory = memory_state();
  if (plan.weights + plan.activations > memory.free)
    bad_input(
        "{}: does not fit on {}: weights {:.2f} GiB and {:.2f} GiB for {} tokens at a time are needed, "
        "{:.2f} "
        "of {:.2f} GiB are free",
        model.folder.string(), to_string(context.choice()), static_cast<double>(plan.weights) / (1 << 30),
        static_cast<double>(plan.activations) / (1 << 30), kLeastTokens,
        static_cast<double>(memory.free) / (1 << 30), static_cast<double>(memory.total) / (1 << 30));
  constexpr int64_t kMegabyte = 1000000;
  const auto start = std::chrono::steady_clock::now();
  int64_t sent = 0;  // bytes as the host has them
  std::optional<Progress> progress;
  progress.emplace("weights to the device", plan.weights / kMegabyte, "MB");
  const auto upload = [&](const TensorView& tensor) {
    OwnedMatrix matrix = upload_matrix(context, tensor, type);
    if (!tensor.generated) sent += tensor.elements() * grinqh::size_of(tensor.dtype);
    progress->advance(tensor.elements() * size_of(type) / kMegabyte);
    return matrix;
  };
  embedding_ = upload(model.embedding);
  if (!tied_) head_ = upload(model.head);
  for (const BlockWeights& block : model.blocks)
    for (const LinearWeights* linear :
         {&block.q, &block.k, &block.v, &block.o, &block.gate, &block.up, &block.down}) {
      Linear& uploaded = linears_[linear->id];
      uploaded.weight = upload(linear->weight);
      if (linear->bias.empty()) continue;
      const std::vector<float> bias = to_float_vector(linear->bias);
      uploaded.bias = context.upload(bias.data(), static_cast<int64_t>(bias.size()));
    }
  context.synchronize();
  progress.reset();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  constexpr int64_t kWorthALine = int64_t{1} << 30;
  if (sent >= kWorthALine)
    Progress::note(fmt::format("{:.2f} GB of weights went to the device in {:.2f} s: {:.1f} GB/s",
                               static_cast<double>(sent) * 1e-9, seconds,
                               static_cast<double>(sent) * 1e-9 / seconds));
}

const ModelWeights::Linear& ModelWeights::linear(const std::string& id) const {
  const auto found = linears_.find(id);
  check(found != linears_.end(), "a linear layer of the model");
  return found->second;
}

}  // namespace grinqh::cuda
