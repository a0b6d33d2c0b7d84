// The linear layers that share one input of a decode step: their outputs lie one after another. By decoding
// kernels where there are some for the layers, several at a time if the kernel takes them together; else by
// decoding the weights and the library's product.
#pragma once

#include <span>
#include <vector>

#include "cuda/device_weights.h"
#include "cuda/gemv.h"
#include "cuda/memory.h"
#include "cuda/model_weights.h"
#include "quant/channel_grading.h"

namespace grinqh::cuda {

// In place of a level: what the token's channels earn by one of the layer's gradings.
constexpr Level kMostGradings = 128;
constexpr Level graded_reading(size_t grading) { return static_cast<Level>(kFullLevel - 1 - grading); }
constexpr bool is_graded(Level reading) {
  return reading < kFullLevel && reading >= kFullLevel - kMostGradings;
}
constexpr size_t grading_index(Level reading) { return static_cast<size_t>(kFullLevel - 1 - reading); }
static_assert(!is_graded(kMaxLevel));

// Memory that products without a kernel share, as large as the greatest of them needs.
struct ProductScratch {
  Bytes input, masked, chosen, weights;
  static void reserve(Bytes& bytes, int64_t size, Stream stream);
};

struct StepLayer {
  const LinearWeights* linear = nullptr;        // null: a layer without bias
  ConstView weight;                             // of a float layer
  const QuantizedLinear* quantized = nullptr;   // of a quantized one,
  const DeviceWeights* packed = nullptr;        // its buffers on the device
  std::vector<const ChannelGrading*> gradings;  // and how its channels are graded, if they are
  std::span<const float> offset;                // what decoded tokens add, or nothing

  int64_t out() const { return quantized ? quantized->out() : weight.rows; }
  int64_t in() const { return quantized ? quantized->in() : weight.cols; }
};

class StepProducts {
 public:
  // Of up to `tokens` tokens at a time.
  StepProducts(const Context& context, std::vector<StepLayer> layers, int64_t tokens, ProductScratch& scratch,
               GemvStore& kernels);

  const std::vector<StepLayer>& layers() const { return layers_; }
  int64_t out() const { return out_; }
  // Whether all of it is done by decoding kernels.
  bool streams() const;

  // readings: [tokens, layers], a level each, or a graded_reading(). counts: [layers, tokens, 17] channels at
  // each level, written where readings are graded; null: not asked for.
  void run(const GemvInput& input, Matrix<const Level> readings, const GemvOutput& output, int32_t* counts);

 private:
  struct Grading {
    GradingRule rule;
    Array<float> thresholds;
    std::vector<Level> levels;  // of the rule, ascending from the first above 0
    Array<uint8_t> on_device;   // the same
  };
  struct Piece {
    size_t first, end;                           // layers
    int64_t column, out;                         // of the outputs
    std::shared_ptr<Gemv> kernel;                // null: one layer, by its decoded weights
    Array<float> bias;                           // [out], or nothing
    std::vector<std::vector<Grading>> gradings;  // of every layer
  };
  struct Rows;

  Piece make_piece(size_t first, size_t end, std::shared_ptr<Gemv> kernel) const;
  Grading make_grading(const ChannelGrading& grading, int64_t in) const;
  std::shared_ptr<Gemv> make_kernel(size_t first, size_t end, GemvStore& kernels) const;
  ConstView make_input(const GemvInput& input);
  void stream(Piece& piece, const GemvInput& input, const Rows& rows, const GemvOutput& output);
  void decode(Piece& piece, ConstView x, const Rows& rows, const GemvOutput& output);
  ConstView choose(const Grading& grading, const StepLayer& layer, const Rows& rows, ConstView& x);

  const Context& context_;
  std::vector<StepLayer> layers_;
  int64_t tokens_, out_ = 0;
  ProductScratch& scratch_;
  Array<float> never_;  // a threshold that nothing passes
  std::vector<Piece> pieces_;
};

}  // namespace grinqh::cuda
