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

// In place of a level: what the token's channels earn.
constexpr Level kGradedReading = 254;

// Memory that products without a kernel share, as large as the greatest of them needs.
struct ProductScratch {
  Bytes input, masked, chosen, weights;
  static void reserve(Bytes& bytes, int64_t size, Stream stream);
};

struct StepLayer {
  const LinearWeights* linear = nullptr;       // null: a layer without bias
  ConstView weight;                            // of a float layer
  const QuantizedLinear* quantized = nullptr;  // of a quantized one,
  const DeviceWeights* packed = nullptr;       // its buffers on the device
  const ChannelGrading* grading = nullptr;     // and how its channels are graded, if they are
  std::span<const float> offset;               // what decoded tokens add, or nothing

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

  // readings: [tokens, layers], a level each, or kGradedReading. counts: [layers, tokens, 17] channels at
  // each level, written where readings are graded; null: not asked for.
  void run(const GemvInput& input, Matrix<const Level> readings, const GemvOutput& output, int32_t* counts);

 private:
  struct Piece {
    size_t first, end;               // layers
    int64_t column, out;             // of the outputs
    std::shared_ptr<Gemv> kernel;    // null: one layer, by its decoded weights
    Array<float> bias;               // [out], or nothing
    std::vector<GradingRule> rules;  // of the layers that are graded
    std::vector<Array<float>> thresholds;
    Array<uint8_t> steps;  // without a kernel: levels of `rules`, ascending from the first above 0
    std::vector<Level> step_levels;
  };
  struct Rows;

  Piece make_piece(size_t first, size_t end, std::shared_ptr<Gemv> kernel) const;
  std::shared_ptr<Gemv> make_kernel(size_t first, size_t end, GemvStore& kernels) const;
  ConstView make_input(const GemvInput& input);
  void stream(Piece& piece, const GemvInput& input, const Rows& rows, const GemvOutput& output);
  void decode(Piece& piece, ConstView x, const Rows& rows, const GemvOutput& output);

  const Context& context_;
  std::vector<StepLayer> layers_;
  int64_t tokens_, out_ = 0;
  ProductScratch& scratch_;
  Array<float> never_;  // a threshold that nothing passes
  std::vector<Piece> pieces_;
};

}  // namespace grinqh::cuda
