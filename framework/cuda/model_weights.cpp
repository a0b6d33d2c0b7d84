#include "cuda/model_weights.h"

#include <array>
#include <chrono>
#include <functional>

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
  fill_zero(to.data, to.rows * to.stride * size_of(to.type), context.stream());
  check_call(cudaMemcpy2DAsync(to.data, static_cast<size_t>(to.stride * size_of(to.type)), host, width, width,
                               static_cast<size_t>(to.rows), cudaMemcpyHostToDevice, context.stream()),
             "cudaMemcpy2DAsync");
  context.synchronize();  // the host's memory may end
}

void upload_rows(const Context& context, const void* host, Type from, const View& to) {
  if (from == to.type) return copy_rows_up(context, host, to);
  const OwnedMatrix matrix(context, to.rows, to.cols, from);
  copy_rows_up(context, host, matrix.view());
  copy(matrix.view(), to, context.stream());
}

void upload_into(const Context& context, const TensorView& tensor, const View& to) {
  if (tensor.generated)
    generate(tensor.generated->values(), to, context.stream());
  else if (tensor.dtype == DType::bf16)
    upload_rows(context, tensor.data(), Type::bf16, to);
  else
    upload_rows(context, to_float(tensor).data(), Type::f32, to);
}

// Of all matrices.
int64_t sum_over(const Model& model, const std::function<int64_t(const TensorView&)>& count) {
  int64_t sum = count(model.embedding) + (model.config.tied_head ? 0 : count(model.head));
  for (const BlockWeights& block : model.blocks)
    for (const LinearWeights* linear :
         {&block.q, &block.k, &block.v, &block.o, &block.gate, &block.up, &block.down})
      sum += count(linear->weight);
  return sum;
}

int64_t elements_of(const Model& model) { return sum_over(model, &TensorView::elements); }

// As the host has them.
int64_t stored_bytes(const Model& model) {
  return sum_over(model, [](const TensorView& tensor) {
    return tensor.generated ? 0 : tensor.elements() * grinqh::size_of(tensor.dtype);
  });
}

}  // namespace

OwnedMatrix upload_matrix(const Context& context, const TensorView& tensor, Type type) {
  OwnedMatrix matrix(context, tensor.rows(), tensor.cols(), type);
  upload_into(context, tensor, matrix.view());
  return matrix;
}

OwnedMatrix upload_matrix(const Context& context, Matrix<const float> matrix, Type type) {
  check(matrix.stride == matrix.cols, "rows one after the other");
  OwnedMatrix uploaded(context, matrix.rows, matrix.cols, type);
  upload_rows(context, matrix.data, Type::f32, uploaded.view());
  return uploaded;
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
  const auto start = std::chrono::steady_clock::now();
  embedding_ = upload_matrix(context, model.embedding, type);
  if (!tied_) head_ = upload_matrix(context, model.head, type);
  for (const BlockWeights& block : model.blocks) {
    upload_stack(context, std::array{&block.q, &block.k, &block.v});
    upload_stack(context, std::array{&block.o});
    upload_stack(context, std::array{&block.gate, &block.up});
    upload_stack(context, std::array{&block.down});
  }
  context.synchronize();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  constexpr int64_t kWorthALine = int64_t{1} << 30;
  if (const int64_t sent = stored_bytes(model); sent >= kWorthALine)
    Progress::note(fmt::format("{:.2f} GB of weights went to the device in {:.2f} s: {:.1f} GB/s",
                               static_cast<double>(sent) * 1e-9, seconds,
                               static_cast<double>(sent) * 1e-9 / seconds));
}

void ModelWeights::upload_stack(const Context& context, std::span<const LinearWeights* const> stack) {
  int64_t rows = 0;
  for (const LinearWeights* linear : stack) rows += linear->weight.rows();
  const View all = stacks_.emplace_back(context, rows, stack.front()->weight.cols(), context.type()).view();
  int64_t first = 0;
  for (const LinearWeights* linear : stack) {
    Linear& uploaded = linears_[linear->id];
    uploaded.weight = all.rows_between(first, first + linear->weight.rows());
    first += linear->weight.rows();
    upload_into(context, linear->weight, uploaded.weight);
    if (linear->bias.empty()) continue;
    const std::vector<float> bias = to_float_vector(linear->bias);
    uploaded.bias = context.upload(bias.data(), static_cast<int64_t>(bias.size()));
  }
}

const ModelWeights::Linear& ModelWeights::linear(const std::string& id) const {
  const auto found = linears_.find(id);
  check(found != linears_.end(), "a linear layer of the model");
  return found->second;
}

}  // namespace grinqh::cuda
