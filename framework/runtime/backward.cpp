#include "runtime/backward.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/gemm.h"
#include "core/parallel.h"
#include "core/vector_math.h"
#include "runtime/attention_backward.h"

namespace grinqh {

namespace {

constexpr int64_t kLogitRows = 256;

MatrixBuffer<float> copy_of(Matrix<const float> x) {
  MatrixBuffer<float> copy(x.rows, x.cols);
  parallel_for(x.rows, [&](int64_t t) { std::ranges::copy(x.row_span(t), copy.row(t)); });
  return copy;
}

void require_finite(Matrix<const float> x, const std::string& layer, const char* what) {
  parallel_for(x.rows, [&](int64_t t) {
    bool finite = true;
    for (const float value : x.row_span(t)) finite &= std::isfinite(value);
    if (!finite) fail("{}: {} is not finite", layer, what);
  });
}

class CheckedLinears final : public LinearExecutor {
 public:
  void run(const LinearWeights& linear, ConstActivations x, Activations y) override {
    inner_.run(linear, x, y);
    require_finite(y.matrix(), linear.id, "its output");
  }

 private:
  FloatLinears inner_;
};

// What the forward pass of one block went through, as the layers saw it. q and k are still without their
// norms and rotation.
struct BlockTape {
  MatrixBuffer<float> attention_in, q, k, v, mixed, attention_out, mlp_in, gate, up, down_in;
};

class TapedLinears final : public LinearExecutor {
 public:
  TapedLinears(const BlockWeights& block, BlockTape& tape) : block_(block), tape_(tape) {}

  void run(const LinearWeights& linear, ConstActivations inputs, Activations outputs) override {
    const Matrix<const float> x = inputs.matrix();
    const Matrix<float> y = outputs.matrix();
    if (&linear == &block_.q) tape_.attention_in = copy_of(x);
    if (&linear == &block_.o) tape_.mixed = copy_of(x);
    if (&linear == &block_.gate) tape_.mlp_in = copy_of(x);
    if (&linear == &block_.down) {
      tape_.down_in = copy_of(x);
      for (int64_t t = 0; t < y.rows; ++t) std::ranges::fill(y.row_span(t), 0.0f);
      return;  // the block's output is known: it is what the next block began with
    }
    inner_.run(linear, x, y);
    for (const auto& [layer, output] : {std::pair{&block_.q, &tape_.q},
                                        {&block_.k, &tape_.k},
                                        {&block_.v, &tape_.v},
                                        {&block_.o, &tape_.attention_out},
                                        {&block_.gate, &tape_.gate},
                                        {&block_.up, &tape_.up}})
      if (&linear == layer) *output = copy_of(y);
  }

 private:
  const BlockWeights& block_;
  BlockTape& tape_;
  FloatLinears inner_;
};

class BackwardPass {
 public:
  BackwardPass(const Transformer& transformer, const Batch& batch, const GradientObserver& observe)
      : transformer_(transformer),
        model_(transformer.model()),
        eps_(model_.config.norm_eps),
        batch_(batch),
        observe_(observe) {}

  std::vector<double> run() {
    std::vector<MatrixBuffer<float>> inputs;  // of every block
    MatrixBuffer<float> x = transformer_.embed(batch_);
    CheckedLinears linears;
    linears.begin_batch(batch_.steps);
    for (int64_t block = 0; block < transformer_.blocks(); ++block) {
      inputs.push_back(copy_of(x.view()));
      transformer_.run_block(block, batch_, x, linears, nullptr);
    }
    std::vector<double> losses;
    MatrixBuffer<float> d = head(x, losses);
    x = {};
    for (int64_t block = transformer_.blocks() - 1; block >= 0; --block) {
      run_block(block, std::move(inputs.back()), d);
      inputs.pop_back();
    }
    return losses;
  }

 private:
  // The gradient in the residual stream x before the final norm.
  MatrixBuffer<float> head(Matrix<const float> x, std::vector<double>& losses) const {
    MatrixBuffer<float> features = copy_of(x);
    transformer_.final_norm(features);
    const std::vector<int32_t> targets = next_tokens();
    const MatrixBuffer<float> weight = to_float(model_.head);
    MatrixBuffer<float> logits(std::min(kLogitRows, x.rows), transformer_.vocab()), d(x.rows, x.cols);
    std::vector<double> row_losses(static_cast<size_t>(x.rows));
    for (int64_t begin = 0; begin < x.rows; begin += kLogitRows) {
      const int64_t end = std::min(begin + kLogitRows, x.rows);
      const Matrix<float> part = logits.view().rows_between(0, end - begin);
      matmul_nt(features.view().rows_between(begin, end), weight, part);
      parallel_for(part.rows, [&](int64_t r) {
        const auto row = static_cast<size_t>(begin + r);
        row_losses[row] = to_loss_gradient(part.row_span(r), targets[row]);
      });
      matmul_nn(part, weight, d.view().rows_between(begin, end));
    }
    rms_norm_backward(x, to_float_vector(model_.final_norm), eps_, d);
    for (const SequenceRows& rows : batch_.sequences) {
      const auto first = row_losses.begin() + rows.first_row;
      losses.push_back(std::accumulate(first, first + rows.count, 0.0));
    }
    return d;
  }

  // The token after each row's in its sequence, -1 after the last.
  std::vector<int32_t> next_tokens() const {
    std::vector<int32_t> next(batch_.tokens.size(), -1);
    for (const SequenceRows& rows : batch_.sequences) {
      check(rows.past == 0, "a backward pass needs whole sequences");
      const auto first = batch_.tokens.begin() + rows.first_row;
      std::copy(first + 1, first + rows.count, next.begin() + rows.first_row);
    }
    return next;
  }

  // Cross-entropy of softmax(logits) against the target; logits become its gradient softmax - onehot.
  static double to_loss_gradient(std::span<float> logits, int32_t target) {
    if (target < 0) {
      std::ranges::fill(logits, 0.0f);
      return 0;
    }
    const float shift = maximum(logits);
    float& chosen = logits[static_cast<size_t>(target)];
    const double above = static_cast<double>(shift) - static_cast<double>(chosen);
    const double sum = exp_shifted(logits, shift);
    const auto share = static_cast<float>(1.0 / sum);
    for (float& value : logits) value *= share;
    chosen -= 1.0f;
    return std::log(sum) + above;
  }

  // Turns the gradient d in the block's output into that in its input x.
  void run_block(int64_t index, MatrixBuffer<float> x, Matrix<float> d) const {
    const BlockWeights& block = model_.blocks[static_cast<size_t>(index)];
    BlockTape tape;
    TapedLinears taped(block, tape);
    {
      const MatrixBuffer<float> again = copy_of(x.view());
      transformer_.run_block(index, batch_, again, taped, nullptr);
    }
    mlp(block, tape, x, d);
    attention(block, tape, x, d);
  }

  void mlp(const BlockWeights& block, BlockTape& tape, Matrix<const float> x, Matrix<float> d) const {
    MatrixBuffer<float> inner(d.rows, tape.down_in.cols());
    through(block.down, tape.down_in, d, inner, Output::overwrite);
    tape.down_in = {};
    parallel_for(d.rows, [&](int64_t t) {
      silu_multiply_backward(tape.gate.view().row_span(t), tape.up.view().row_span(t),
                             inner.view().row_span(t));
    });
    MatrixBuffer<float> normalized(d.rows, d.cols);
    through(block.gate, tape.mlp_in, tape.gate, normalized, Output::overwrite);
    through(block.up, tape.mlp_in, tape.up, normalized, Output::add);
    const MatrixBuffer<float> middle = copy_of(x);  // the residual stream between attention and mlp
    add_rows(middle, tape.attention_out);
    rms_norm_backward(middle, to_float_vector(block.mlp_norm), eps_, normalized);
    add_rows(d, normalized);
    for (MatrixBuffer<float>* done : {&tape.gate, &tape.up, &tape.mlp_in}) *done = {};
  }

  void attention(const BlockWeights& block, const BlockTape& tape, Matrix<const float> x,
                 Matrix<float> d) const {
    MatrixBuffer<float> mixed(d.rows, tape.mixed.cols());
    through(block.o, tape.mixed, d, mixed, Output::overwrite);
    MatrixBuffer<float> q(d.rows, tape.q.cols()), k(d.rows, tape.k.cols()), v(d.rows, tape.v.cols());
    scores(block, tape, mixed, q, k, v);
    MatrixBuffer<float> normalized(d.rows, d.cols);
    through(block.q, tape.attention_in, q, normalized, Output::overwrite);
    through(block.k, tape.attention_in, k, normalized, Output::add);
    through(block.v, tape.attention_in, v, normalized, Output::add);
    rms_norm_backward(x, to_float_vector(block.attention_norm), eps_, normalized);
    add_rows(d, normalized);
  }

  // From the gradient in what the heads mixed to those in the outputs of the projections.
  void scores(const BlockWeights& block, const BlockTape& tape, Matrix<const float> d_mixed,
              Matrix<float> d_q, Matrix<float> d_k, Matrix<float> d_v) const {
    const MatrixBuffer<float> q = copy_of(tape.q.view()), k = copy_of(tape.k.view());
    if (!block.q_norm.empty()) rms_norm_heads(q, to_float_vector(block.q_norm), eps_);
    if (!block.k_norm.empty()) rms_norm_heads(k, to_float_vector(block.k_norm), eps_);
    transformer_.rope().apply(q, batch_.steps);
    transformer_.rope().apply(k, batch_.steps);
    const AttentionShape& shape = transformer_.attention_shape();
    const auto sequences = static_cast<int64_t>(batch_.sequences.size());
    parallel_for(sequences * shape.kv_heads, [&](int64_t task) {
      const SequenceRows& rows = batch_.sequences[static_cast<size_t>(task / shape.kv_heads)];
      const auto of = [&](auto matrix) {
        return matrix.rows_between(rows.first_row, rows.first_row + rows.count);
      };
      attention_backward_task(shape, task % shape.kv_heads,
                              {.q = of(q.view()),
                               .out = of(tape.mixed.view()),
                               .d_out = of(d_mixed),
                               .keys = of(k.view()),
                               .values = of(tape.v.view())},
                              of(d_q), of(d_k), of(d_v));
    });
    transformer_.rope().apply_transposed(d_q, batch_.steps);
    transformer_.rope().apply_transposed(d_k, batch_.steps);
    if (!block.q_norm.empty()) rms_norm_heads_backward(tape.q, to_float_vector(block.q_norm), eps_, d_q);
    if (!block.k_norm.empty()) rms_norm_heads_backward(tape.k, to_float_vector(block.k_norm), eps_, d_k);
  }

  // Shows the layer to the observer, and goes through it: dx = dy W, or +=.
  void through(const LinearWeights& linear, Matrix<const float> x, Matrix<const float> dy, Matrix<float> dx,
               Output output) const {
    require_finite(dy, linear.id, "the loss's gradient in its output");
    observe_(linear, x, dy);
    matmul_nn(dy, to_float(linear.weight), dx, output);
  }

  const Transformer& transformer_;
  const Model& model_;
  double eps_;
  const Batch& batch_;
  const GradientObserver& observe_;
};

}  // namespace

std::vector<double> Transformer::backward(const Batch& batch, const GradientObserver& observe) const {
  return BackwardPass(*this, batch, observe).run();
}

}  // namespace grinqh
