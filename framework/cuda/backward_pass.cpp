#include "cuda/backward_pass.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "cuda/backward.h"
#include "cuda/ops.h"
#include "cuda/scores.h"

namespace grinqh::cuda {

// q and k are still without their norms and rotation.
struct BackwardPass::Tape {
  Tensor attention_in, q, k, v, mixed, attention_out, mlp_in, gate, up, down_in;
};

class BackwardPass::TapedLinears final : public DeviceLinears {
 public:
  TapedLinears(const BackwardPass& pass, const BlockWeights& block, Tape& tape)
      : DeviceLinears(pass.context_, pass.transformer_.weights()), pass_(pass), block_(block), tape_(tape) {}

  void run(const LinearWeights& linear, ConstActivations x, Activations y) override {
    if (&linear == &block_.q) tape_.attention_in = pass_.copy_typed(view(x));
    if (&linear == &block_.o) tape_.mixed = pass_.copy_typed(view(x));
    if (&linear == &block_.gate) tape_.mlp_in = pass_.copy_typed(view(x));
    if (&linear == &block_.down) {
      tape_.down_in = pass_.copy_typed(view(x));
      fill_zero(y.data, y.rows * y.stride * size_of(view(y).type), context_.stream());
      return;  // the block's output is known: it is what the next block began with
    }
    run_float(linear, view(x), view(y), 0.0f);
    for (const auto& [layer, output] : {std::pair{&block_.q, &tape_.q},
                                        {&block_.k, &tape_.k},
                                        {&block_.v, &tape_.v},
                                        {&block_.o, &tape_.attention_out},
                                        {&block_.gate, &tape_.gate},
                                        {&block_.up, &tape_.up}})
      if (&linear == layer) *output = pass_.copy_typed(view(y));
  }

 private:
  const BackwardPass& pass_;
  const BlockWeights& block_;
  Tape& tape_;
};

BackwardPass::BackwardPass(const DeviceTransformer& transformer, const Batch& batch,
                           const GradientObserver& observe)
    : transformer_(transformer), context_(transformer.context()), batch_(batch), observe_(observe) {
  for (const SequenceRows& rows : batch.sequences)
    check(rows.past == 0, "a backward pass needs whole sequences");
}

Tensor BackwardPass::copy_typed(ConstView x) const {
  Tensor result = typed(x.rows, x.cols);
  copy(x, view(result.view()), context_.stream());
  return result;
}

void BackwardPass::require_finite(ConstView x, const std::string& layer, const char* what) const {
  const ConstActivations activations{
      x.data, x.rows, x.cols, x.stride, x.type == Type::f32 ? DType::f32 : DType::bf16, Device::cuda};
  if (!transformer_.all_finite(activations)) fail("{}: {} is not finite", layer, what);
}

std::vector<double> BackwardPass::run() {
  std::vector<Tensor> inputs;  // of every block
  Tensor x = transformer_.embed(batch_);
  DeviceLinears linears(context_, transformer_.weights());
  linears.begin_batch(batch_.steps);
  for (int64_t block = 0; block < transformer_.blocks(); ++block) {
    inputs.push_back(transformer_.copy_of(x));
    transformer_.run_block(block, batch_, x, linears, nullptr);
    require_finite(view(x.view()), transformer_.model().blocks[static_cast<size_t>(block)].down.id,
                   "its output");
  }
  std::vector<double> losses;
  const Tensor d = head(x, losses);
  x = {};
  for (int64_t block = transformer_.blocks() - 1; block >= 0; --block) {
    run_block(block, inputs.back(), view(d.view()));
    inputs.pop_back();
  }
  return losses;
}

Tensor BackwardPass::head(const Tensor& x, std::vector<double>& losses) const {
  constexpr int64_t kLogitRows = 1024;
  const Tensor features = transformer_.copy_of(x);
  transformer_.final_norm(features);
  std::vector<int32_t> next(batch_.tokens.size(), -1);
  for (const SequenceRows& rows : batch_.sequences) {
    const auto first = batch_.tokens.begin() + rows.first_row;
    std::copy(first + 1, first + rows.count, next.begin() + rows.first_row);
  }
  const Array<int32_t> targets = context_.upload(next.data(), x.rows());
  const Array<double> row_losses = context_.array<double>(x.rows());
  const int64_t rows = std::min(kLogitRows, x.rows());
  const Tensor logits = context_.tensor(rows, transformer_.vocab(), Type::f32);
  Tensor d = transformer_.allocate(x.rows(), x.cols());
  const ConstView weight = transformer_.weights().head();
  for (int64_t begin = 0; begin < x.rows(); begin += rows) {
    const int64_t end = std::min(begin + rows, x.rows());
    const View part = view(logits.view().rows_between(0, end - begin));
    transformer_.device_logits(features.view().rows_between(begin, end), part);
    loss_gradient(part, targets.data() + begin, row_losses.data() + begin, context_.stream());
    Bytes storage;
    context_.gemm().nn(in_type(context_, part, weight.type, storage), weight,
                       view(d.view()).rows_between(begin, end), 1.0f, 0.0f, context_.stream());
  }
  rms_norm_backward(view(x.view()), transformer_.final_norm_weights_on_device(), transformer_.eps(),
                    view(d.view()), context_.stream());
  std::vector<double> host(static_cast<size_t>(x.rows()));
  to_host(row_losses.data(), host.data(), static_cast<int64_t>(host.size() * sizeof(double)),
          context_.stream());
  for (const SequenceRows& sequence : batch_.sequences) {
    const auto first = host.begin() + sequence.first_row;
    losses.push_back(std::accumulate(first, first + sequence.count, 0.0));
  }
  return d;
}

void BackwardPass::run_block(int64_t index, const Tensor& x, View d) const {
  Tape tape;
  {
    const Tensor again = transformer_.copy_of(x);
    TapedLinears taped(*this, transformer_.model().blocks[static_cast<size_t>(index)], tape);
    transformer_.run_block(index, batch_, again, taped, nullptr);
  }
  mlp(index, tape, x, d);
  attention(index, tape, x, d);
}

void BackwardPass::mlp(int64_t index, Tape& tape, const Tensor& x, View d) const {
  const BlockWeights& block = transformer_.model().blocks[static_cast<size_t>(index)];
  const Stream stream = context_.stream();
  const Tensor inner = typed(d.rows, tape.down_in.cols());
  through(block.down, tape.down_in, d, view(inner.view()), 0.0f);
  tape.down_in = {};
  silu_multiply_backward(view(tape.gate.view()), view(tape.up.view()), view(inner.view()), stream);
  const Tensor normalized = transformer_.allocate(d.rows, d.cols);
  through(block.gate, tape.mlp_in, view(tape.gate.view()), view(normalized.view()), 0.0f);
  through(block.up, tape.mlp_in, view(tape.up.view()), view(normalized.view()), 1.0f);
  const Tensor middle = transformer_.copy_of(x);  // the residual stream between attention and mlp
  add_rows(view(middle.view()), view(tape.attention_out.view()), stream);
  rms_norm_backward(view(middle.view()), transformer_.device_norms(index).mlp.data(), transformer_.eps(),
                    view(normalized.view()), stream);
  add_rows(d, view(normalized.view()), stream);
}

void BackwardPass::attention(int64_t index, Tape& tape, const Tensor& x, View d) const {
  const BlockWeights& block = transformer_.model().blocks[static_cast<size_t>(index)];
  const Tensor mixed = typed(d.rows, tape.mixed.cols());
  through(block.o, tape.mixed, d, view(mixed.view()), 0.0f);
  const Tensor q = typed(d.rows, tape.q.cols()), k = typed(d.rows, tape.k.cols()),
               v = typed(d.rows, tape.v.cols());
  scores(index, tape, mixed, q, k, v);
  const Tensor normalized = transformer_.allocate(d.rows, d.cols);
  through(block.q, tape.attention_in, view(q.view()), view(normalized.view()), 0.0f);
  through(block.k, tape.attention_in, view(k.view()), view(normalized.view()), 1.0f);
  through(block.v, tape.attention_in, view(v.view()), view(normalized.view()), 1.0f);
  rms_norm_backward(view(x.view()), transformer_.device_norms(index).attention.data(), transformer_.eps(),
                    view(normalized.view()), context_.stream());
  add_rows(d, view(normalized.view()), context_.stream());
}

void BackwardPass::scores(int64_t index, const Tape& tape, const Tensor& d_mixed, const Tensor& d_q,
                          const Tensor& d_k, const Tensor& d_v) const {
  const DeviceTransformer::Norms& norms = transformer_.device_norms(index);
  const AttentionShape shape = transformer_.shape();
  const Stream stream = context_.stream();
  const int32_t* positions = transformer_.positions(batch_);
  const Tensor q = copy_typed(view(tape.q.view())), k = copy_typed(view(tape.k.view()));
  const View turned_q = view(q.view()), turned_k = view(k.view());
  if (norms.q.count() > 0)
    rms_norm_heads(turned_q, norms.q.data(), shape.head_dim, transformer_.eps(), stream);
  if (norms.k.count() > 0)
    rms_norm_heads(turned_k, norms.k.data(), shape.head_dim, transformer_.eps(), stream);
  for (const View& each : {turned_q, turned_k})
    rope(each, positions, transformer_.rope_frequencies(), shape.head_dim, 1.0f, stream);

  std::vector<SequenceSpan> spans;
  int64_t longest = 0;
  for (const SequenceRows& rows : batch_.sequences) {
    const int64_t end = rows.first_row + rows.count;
    spans.push_back({rows.first_row, rows.count, 0, turned_k.rows_between(rows.first_row, end).data,
                     view(tape.v.view()).rows_between(rows.first_row, end).data});
    longest = std::max(longest, rows.count);
  }
  const auto count = static_cast<int64_t>(spans.size());
  const Array<SequenceSpan> on_device = context_.upload(spans.data(), count);
  const Array<float> scratch = context_.array<float>(attention_backward_scratch(shape, d_q.rows()));
  attention_backward(shape,
                     {turned_q, turned_k, view(tape.v.view()), view(tape.mixed.view()), view(d_mixed.view()),
                      view(d_q.view()), view(d_k.view()), view(d_v.view())},
                     on_device.data(), count, longest, scratch.data(), stream);
  for (const Tensor* each : {&d_q, &d_k})
    rope(view(each->view()), positions, transformer_.rope_frequencies(), shape.head_dim, -1.0f, stream);
  if (norms.q.count() > 0)
    rms_norm_heads_backward(view(tape.q.view()), norms.q.data(), shape.head_dim, transformer_.eps(),
                            view(d_q.view()), stream);
  if (norms.k.count() > 0)
    rms_norm_heads_backward(view(tape.k.view()), norms.k.data(), shape.head_dim, transformer_.eps(),
                            view(d_k.view()), stream);
}

void BackwardPass::through(const LinearWeights& linear, const Tensor& x, ConstView dy, View dx,
                           float beta) const {
  require_finite(dy, linear.id, "the loss's gradient in its output");
  const ConstActivations gradient{
      dy.data, dy.rows, dy.cols, dy.stride, dy.type == Type::f32 ? DType::f32 : DType::bf16, Device::cuda};
  observe_(linear, x, gradient);
  const ConstView weight = transformer_.weights().linear(linear.id).weight;
  Bytes storage;
  context_.gemm().nn(in_type(context_, dy, weight.type, storage), weight, dx, 1.0f, beta, context_.stream());
}

}  // namespace grinqh::cuda
