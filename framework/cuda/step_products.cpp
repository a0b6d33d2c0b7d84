#include "cuda/step_products.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "cuda/dense_gemv.h"
#include "cuda/input_levels.h"
#include "cuda/ops.h"

namespace grinqh::cuda {

namespace {

constexpr int64_t kLevels = kMaxLevel + 1;

GemvInput rows_of(GemvInput input, int64_t begin, int64_t end) {
  input.x.data = static_cast<const char*>(input.x.data) + begin * input.x.stride * size_of(input.x.type);
  input.x.rows = end - begin;
  return input;
}

GradingRule never_read(const float* threshold, Level full) {
  GradingRule rule;
  rule.thresholds = threshold;
  rule.shared = true;
  rule.levels[1] = full;
  rule.count = 2;
  return rule;
}

}  // namespace

// Tokens [begin, end) of a call, which read all layers of a piece alike.
struct StepProducts::Rows {
  int64_t begin, end;
  std::span<const Level> readings;  // of the piece's layers
  int32_t* counts;                  // of its first layer, [tokens, 17]
};

void ProductScratch::reserve(Bytes& bytes, int64_t size, Stream stream) {
  if (bytes.size() < size) bytes = Bytes(size, stream);
}

StepProducts::StepProducts(const Context& context, std::vector<StepLayer> layers, int64_t tokens,
                           ProductScratch& scratch, GemvStore& kernels)
    : context_(context), layers_(std::move(layers)), tokens_(tokens), scratch_(scratch) {
  const float infinity = HUGE_VALF;
  never_ = context.upload(&infinity, 1);
  for (size_t first = 0; first < layers_.size();) {
    // As many as a kernel takes together.
    size_t end = layers_.size();
    std::shared_ptr<Gemv> kernel = make_kernel(first, end, kernels);
    while (!kernel && end > first + 1) kernel = make_kernel(first, --end, kernels);
    pieces_.push_back(make_piece(first, end, std::move(kernel)));
    first = end;
  }
  if (streams()) return;
  const int64_t in = layers_.front().in(), size = size_of(context.type());
  const Stream stream = context.stream();
  ProductScratch::reserve(scratch.input, tokens * padded(in) * size, stream);
  for (const Piece& piece : pieces_) {
    if (piece.kernel || !layers_[piece.first].quantized) continue;
    int64_t levels = 1;
    for (const Grading& grading : piece.gradings.front())
      levels = std::max<int64_t>(levels, std::ssize(grading.levels));
    const int64_t width = padded(in) * levels;
    ProductScratch::reserve(scratch.weights, piece.out * width * size, stream);
    ProductScratch::reserve(scratch.masked, tokens * width * size, stream);
    ProductScratch::reserve(scratch.chosen, tokens * in, stream);
  }
}

bool StepProducts::streams() const {
  return std::ranges::all_of(pieces_, [](const Piece& piece) { return piece.kernel != nullptr; });
}

std::shared_ptr<Gemv> StepProducts::make_kernel(size_t first, size_t end, GemvStore& kernels) const {
  // float32 throughout is the reference: kernels round inputs.
  if (context_.type() == Type::f32) return nullptr;
  const std::span<const StepLayer> layers(layers_.data() + first, end - first);
  if (!layers[0].quantized) {
    std::vector<ConstView> weights;
    for (const StepLayer& layer : layers) {
      if (layer.quantized) return nullptr;
      weights.push_back(layer.weight);
    }
    return make_dense_gemv(weights);
  }
  std::vector<const QuantizedLinear*> packed;
  bool graded = false;
  for (const StepLayer& layer : layers) {
    // A grading of a layer with one level reads it in full.
    graded |= !layer.gradings.empty() && layer.quantized->levels().size() > 1;
    const bool alike = layer.quantized && layer.quantized->layout() == layers[0].quantized->layout();
    const bool bisects = std::ranges::any_of(
        layer.gradings, [](const ChannelGrading* each) { return each->budget.has_value(); });
    if (!alike || bisects) return nullptr;
    packed.push_back(layer.quantized);
  }
  return kernels.kernel_of(packed, graded, context_.stream());
}

StepProducts::Piece StepProducts::make_piece(size_t first, size_t end, std::shared_ptr<Gemv> kernel) const {
  Piece piece{first, end, 0, 0, std::move(kernel), {}, {}};
  for (size_t i = 0; i < first; ++i) piece.column += layers_[i].out();
  std::vector<float> bias;
  bool any_bias = false;
  for (size_t i = first; i < end; ++i) {
    const StepLayer& layer = layers_[i];
    const auto begin = static_cast<size_t>(piece.out);
    piece.out += layer.out();
    bias.resize(static_cast<size_t>(piece.out), 0.0f);
    const auto add = [&](std::span<const float> values) {
      any_bias = any_bias || !values.empty();
      for (size_t n = 0; n < values.size(); ++n) bias[begin + n] += values[n];
    };
    if (layer.linear && !layer.linear->bias.empty()) add(to_float_vector(layer.linear->bias));
    add(layer.offset);
    std::vector<Grading>& gradings = piece.gradings.emplace_back();
    for (const ChannelGrading* grading : layer.gradings)
      gradings.push_back(make_grading(*grading, layer.in()));
  }
  if (any_bias) piece.bias = context_.upload(bias.data(), std::ssize(bias));
  return piece;
}

StepProducts::Grading StepProducts::make_grading(const ChannelGrading& grading, int64_t in) const {
  Grading made;
  made.thresholds = context_.upload(grading.thresholds.data(), grading.thresholds.size());
  made.rule.thresholds = made.thresholds.data();
  made.rule.shared = grading.thresholds.cols() != in;
  made.rule.count = static_cast<int32_t>(grading.levels.size());
  std::ranges::copy(grading.levels, made.rule.levels);
  made.rule.budget = grading.budget.value_or(-1.0);
  std::ranges::copy_if(grading.levels, std::back_inserter(made.levels),
                       [](Level level) { return level > 0; });
  made.on_device = context_.upload(made.levels.data(), std::ssize(made.levels));
  return made;
}

void StepProducts::run(const GemvInput& input, Matrix<const Level> readings, const GemvOutput& output,
                       int32_t* counts) {
  const ConstView x = streams() ? ConstView() : make_input(input);
  for (Piece& piece : pieces_) {
    const auto of = [&](int64_t t) {
      return readings.row_span(t).subspan(piece.first, piece.end - piece.first);
    };
    for (int64_t begin = 0, end = 0; begin < input.x.rows; begin = end) {
      while (end < input.x.rows && std::ranges::equal(of(begin), of(end))) ++end;
      const Rows rows{begin, end, of(begin),
                      counts ? counts + static_cast<int64_t>(piece.first) * tokens_ * kLevels : nullptr};
      GemvOutput part = output;
      part.y = output.y.rows_between(begin, end).cols_between(piece.column, piece.column + piece.out);
      part.bias = piece.bias.data();
      if (piece.kernel)
        stream(piece, rows_of(input, begin, end), rows, part);
      else
        decode(piece, x, rows, part);
    }
  }
}

void StepProducts::stream(Piece& piece, const GemvInput& input, const Rows& rows, const GemvOutput& output) {
  std::vector<GradingRule> never(piece.end - piece.first);
  std::vector<GemvReading> readings(piece.end - piece.first);
  for (size_t i = 0; i < readings.size(); ++i) {
    const QuantizedLinear* quantized = layers_[piece.first + i].quantized;
    if (!quantized) continue;
    readings[i].level = quantized->full_level();
    if (is_graded(rows.readings[i])) {
      const GradingRule& rule = piece.gradings[i][grading_index(rows.readings[i])].rule;
      readings[i].grading = &rule;
      if (rows.counts)
        count_input_levels(input, rule,
                           rows.counts + (static_cast<int64_t>(i) * tokens_ + rows.begin) * kLevels,
                           context_.stream());
    } else if (rows.readings[i] == 0) {
      never[i] = never_read(never_.data(), quantized->full_level());
      readings[i].grading = &never[i];
    } else {
      readings[i].level = rows.readings[i];
    }
  }
  piece.kernel->run(input, readings, output, context_.stream());
}

// What the layers multiply, in the type that the library multiplies.
ConstView StepProducts::make_input(const GemvInput& input) {
  const int64_t in = layers_.front().in();
  const View made{scratch_.input.data(), input.x.rows, in, padded(in), context_.type()};
  const Stream stream = context_.stream();
  switch (input.form) {
    case GemvInput::Form::rms_norm:
      rms_norm(input.x, input.norm_weight, input.epsilon, made, stream);
      break;
    case GemvInput::Form::swiglu: {
      ConstView gate = input.x, up = input.x;
      gate.cols = up.cols = in;
      up.data = static_cast<const char*>(up.data) + in * size_of(up.type);
      silu_multiply(gate, up, made, stream);
      break;
    }
    case GemvInput::Form::plain:
      if (input.x.type == made.type) return input.x;
      copy(input.x, made, stream);
      break;
  }
  return made;
}

// One product of masked inputs with differences of weights (quant/level_gemm.h): the weights, and x masked.
ConstView StepProducts::choose(const Grading& grading, const StepLayer& layer, const Rows& rows,
                               ConstView& x) {
  const Stream stream = context_.stream();
  const Type type = context_.type();
  const int64_t in = layer.in(), part = padded(in), count = std::ssize(grading.levels), width = count * part;
  const View differences{scratch_.weights.data(), layer.out(), width, width, type};
  if (part != in) fill_zero(differences.data, layer.out() * width * size_of(type), stream);
  for (int64_t k = 0; k < count; ++k) {
    const auto at = static_cast<size_t>(k);
    layer.packed->dequantize(grading.levels[at], k == 0 ? Level{0} : grading.levels[at - 1],
                             differences.cols_between(k * part, k * part + in), stream);
  }
  auto* chosen = scratch_.chosen.as<uint8_t>();
  grade(x, grading.rule, nullptr, chosen, stream);
  if (rows.counts) count_levels(chosen, x.rows, in, rows.counts + rows.begin * kLevels, stream);
  const View masked{scratch_.masked.data(), x.rows, width, width, type};
  mask_by_level(x, chosen, grading.on_device.data(), static_cast<int32_t>(count), part, masked, stream);
  x = masked;
  return differences;
}

void StepProducts::decode(Piece& piece, ConstView whole, const Rows& rows, const GemvOutput& output) {
  const StepLayer& layer = layers_[piece.first];
  const Stream stream = context_.stream();
  const Type type = context_.type();
  const int64_t in = layer.in();
  ConstView x = whole;
  x.data = static_cast<const char*>(x.data) + rows.begin * x.stride * size_of(type);
  x.rows = rows.end - rows.begin;
  ConstView weight = layer.weight;
  const Level reading = rows.readings.front();
  if (layer.quantized && is_graded(reading)) {
    weight = choose(piece.gradings.front()[grading_index(reading)], layer, rows, x);
  } else if (layer.quantized) {
    const View decoded{scratch_.weights.data(), piece.out, in, padded(in), type};
    layer.packed->dequantize(reading, 0, decoded, stream);
    weight = decoded;
  }
  context_.gemm().nt(x, weight, output.y, 1.0f, output.add ? 1.0f : 0.0f, stream);
  if (output.bias) add_bias(output.y, output.bias, stream);
}

}  // namespace grinqh::cuda
