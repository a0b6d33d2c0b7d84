#include "cuda/linears.h"

#include <algorithm>
#include <bit>

#include "core/error.h"
#include "core/parallel.h"
#include "cuda/group_rounding.h"
#include "cuda/ops.h"
#include "quant/affine_grid.h"

namespace grinqh::cuda {

void DeviceLinears::multiply(ConstView x, ConstView weight, View y, float beta) const {
  Bytes storage;
  context_.gemm().nt(in_type(context_, x, weight.type, storage), weight, y, 1.0f, beta, context_.stream());
}

void DeviceLinears::add_bias_of(const LinearWeights& linear, View y) const {
  if (!linear.bias.empty()) add_bias(y, weights_.linear(linear.id).bias.data(), context_.stream());
}

void DeviceLinears::run_float(const LinearWeights& linear, ConstView x, View y, float beta) {
  multiply(x, weights_.linear(linear.id).weight, y, beta);
  add_bias_of(linear, y);
}

void DeviceLinears::run_together(std::span<const Part> parts, ConstView x) {
  View weight = weights_.linear(parts.front().linear->id).weight, y = parts.front().y;
  for (const Part& part : parts.subspan(1)) {
    const View& next = weights_.linear(part.linear->id).weight;
    const bool below = next.data == weight.rows_between(weight.rows, weight.rows).data;
    const bool beside = part.y.data == y.cols_between(y.cols, y.cols).data && part.y.stride == y.stride;
    if (!below || !beside) {
      for (const Part& each : parts) run_float(*each.linear, x, each.y, 0.0f);
      return;
    }
    weight.rows += next.rows;
    y.cols += part.y.cols;
  }
  multiply(x, weight, y);
  for (const Part& part : parts) add_bias_of(*part.linear, part.y);
}

DeviceReplacedLinears::DeviceReplacedLinears(const Context& context, const ModelWeights& weights,
                                             std::span<const LinearWeights* const> layers,
                                             std::span<const Matrix<const float>> replacements)
    : DeviceLinears(context, weights) {
  check(layers.size() == replacements.size(), "one matrix a layer");
  for (size_t i = 0; i < layers.size(); ++i)
    replaced_.emplace(layers[i], upload_matrix(context, replacements[i], context.type()));
}

DeviceReplacedLinears::DeviceReplacedLinears(const Context& context, const ModelWeights& weights,
                                             std::span<const LinearWeights* const> layers,
                                             const ScaledRounding& rounding)
    : DeviceLinears(context, weights) {
  const Stream stream = context.stream();
  const Array<float> scales = context.upload(rounding.scales.data(), std::ssize(rounding.scales));
  const Array<uint32_t> too_large = context.array<uint32_t>(1);
  fill_zero(too_large.data(), sizeof(uint32_t), stream);
  const AffineGridRule rule{rounding.bits, false};
  for (const LinearWeights* layer : layers) {
    const ConstView weight = weights.linear(layer->id).weight;
    check(weight.cols == std::ssize(rounding.scales), "a scale for every input");
    OwnedMatrix rounded(context, weight.rows, weight.cols, weight.type);
    round_scaled(weight, scales.data(), {rule.plain(), rounding.group, too_large.data()}, rounded.view(),
                 stream);
    uint32_t refused = 0;
    to_host(too_large.data(), &refused, sizeof(refused), stream);
    if (refused) refuse_scale(layer->id, std::bit_cast<float>(refused));
    replaced_.emplace(layer, std::move(rounded));
  }
}

void DeviceReplacedLinears::run(const LinearWeights& linear, ConstActivations x, Activations y) {
  const auto replaced = replaced_.find(&linear);
  if (replaced == replaced_.end()) return run_float(linear, view(x), view(y), 0.0f);
  multiply(view(x), replaced->second.view(), view(y));
  add_bias_of(linear, view(y));
}

struct DeviceQuantizedLinears::Layer {
  const LinearWeights* linear;
  const QuantizedLinear* quantized;
  std::unique_ptr<DeviceWeights> weights;
  // The thresholds that were uploaded last, and as they are on the CPU: policies that tune change theirs.
  std::vector<float> known_thresholds;
  Array<float> thresholds;
  Array<float> offset;
};

// One of: `uniform` for all rows; a level a row; a level a row and channel, on the device.
struct DeviceQuantizedLinears::Choice {
  Level uniform = kFullLevel;
  std::vector<Level> rows;
  Array<uint8_t> channels;     // [rows, in]
  std::vector<Level> reached;  // with `channels`: levels above 0 that can occur, ascending
};

namespace {

// Rows of masked inputs that are held at a time.
constexpr int64_t kMaskedBytes = int64_t{1} << 30;

void insert(std::vector<Level>& levels, Level level) {
  const auto at = std::ranges::lower_bound(levels, level);
  if (level > 0 && (at == levels.end() || *at != level)) levels.insert(at, level);
}

}  // namespace

// Products with decoded weights.
class DeviceQuantizedLinears::Products {
 public:
  Products(const Context& context, const Layer& layer, ConstView x, View y)
      : context_(context), weights_(*layer.weights), x_(x), y_(y) {}

  void uniform(Level level) {
    if (level == 0) return clear();
    const OwnedMatrix decoded = decode(level);
    multiply(x_, decoded.view(), y_);
  }

  // Rows of one level together.
  void by_row(std::span<const Level> levels) {
    std::map<Level, std::vector<int32_t>> rows;
    for (size_t t = 0; t < levels.size(); ++t) rows[levels[t]].push_back(static_cast<int32_t>(t));
    if (rows.contains(0)) clear();
    for (const auto& [level, listed] : rows) {
      if (level == 0) continue;
      const auto count = static_cast<int64_t>(listed.size());
      const Array<int32_t> indices = context_.upload(listed.data(), count);
      const OwnedMatrix picked(context_, count, x_.cols, x_.type),
          products(context_, count, y_.cols, y_.type);
      copy_rows(x_, indices.data(), picked.view(), context_.stream());
      const OwnedMatrix decoded = decode(level);
      multiply(picked.view(), decoded.view(), products.view());
      scatter_rows(products.view(), indices.data(), y_, context_.stream());
    }
  }

  // y = sum over steps k of (x o [level >= b_k]) (D_k - D_(k-1))^T (DESIGN.md section 5) as one product:
  // masked inputs and differences of weights side by side.
  void graded(const uint8_t* channels, std::span<const Level> steps) {
    if (steps.empty()) return clear();
    const Type type = context_.type();
    const int64_t part = padded(x_.cols), width = static_cast<int64_t>(steps.size()) * part;
    const OwnedMatrix differences(context_, y_.cols, width, type);
    if (part != x_.cols)
      fill_zero(differences.view().data, y_.cols * differences.view().stride * size_of(type),
                context_.stream());
    for (size_t k = 0; k < steps.size(); ++k) {
      const auto begin = static_cast<int64_t>(k) * part;
      weights_.dequantize(steps[k], k == 0 ? Level{0} : steps[k - 1],
                          differences.view().cols_between(begin, begin + x_.cols), context_.stream());
    }
    const Array<uint8_t> step_levels = context_.upload(steps.data(), static_cast<int64_t>(steps.size()));
    const int64_t rows = std::clamp<int64_t>(kMaskedBytes / (width * size_of(type)), 1, x_.rows);
    const OwnedMatrix masked(context_, rows, width, type);
    Bytes storage;
    const ConstView x = in_type(context_, x_, type, storage);
    for (int64_t first = 0; first < x.rows; first += rows) {
      const int64_t end = std::min(first + rows, x.rows);
      const View target = masked.view().rows_between(0, end - first);
      const ConstView source{static_cast<const char*>(x.data) + first * x.stride * size_of(type), end - first,
                             x.cols, x.stride, type};
      mask_by_level(source, channels + first * x.cols, step_levels.data(), static_cast<int32_t>(steps.size()),
                    part, target, context_.stream());
      multiply(target, differences.view(), y_.rows_between(first, end));
    }
  }

 private:
  OwnedMatrix decode(Level level) {
    OwnedMatrix decoded(context_, y_.cols, x_.cols, context_.type());
    weights_.dequantize(level, 0, decoded.view(), context_.stream());
    return decoded;
  }
  void multiply(ConstView x, ConstView weight, View y) {
    Bytes storage;
    context_.gemm().nt(in_type(context_, x, weight.type, storage), weight, y, 1.0f, 0.0f, context_.stream());
  }
  void clear() {
    check_call(cudaMemset2DAsync(y_.data, static_cast<size_t>(y_.stride * size_of(y_.type)), 0,
                                 static_cast<size_t>(y_.cols * size_of(y_.type)),
                                 static_cast<size_t>(y_.rows), context_.stream()),
               "cudaMemset2DAsync");
  }

  const Context& context_;
  const DeviceWeights& weights_;
  ConstView x_;
  View y_;
};

DeviceQuantizedLinears::DeviceQuantizedLinears(const Context& context, const ModelWeights& weights,
                                               const QuantizedModel& model, const PrecisionPolicy* policy,
                                               Level prefill_level)
    : context_(context),
      weights_(weights),
      model_(model),
      policy_(policy),
      prefill_level_(prefill_level),
      float_(context, weights) {}

DeviceQuantizedLinears::~DeviceQuantizedLinears() = default;

void DeviceQuantizedLinears::begin_batch(std::span<const Step> steps) {
  steps_.assign(steps.begin(), steps.end());
  decoded_rows_ = std::ranges::count(steps_, Phase::decode, &Step::phase);
  counted_.clear();
  traffic_.codes.assign(steps.size(), 0);
  traffic_.total.assign(steps.size(), 0);
  std::vector<uint8_t> decodes(steps.size());
  std::ranges::transform(steps_, decodes.begin(),
                         [](const Step& step) { return step.phase == Phase::decode; });
  decodes_ = context_.upload(decodes.data(), static_cast<int64_t>(decodes.size()));
}

void DeviceQuantizedLinears::run(const LinearWeights& linear, ConstActivations inputs, Activations outputs) {
  const auto found = model_.layers.find(linear.id);
  if (found == model_.layers.end()) return float_.run(linear, inputs, outputs);
  const ConstView x = view(inputs);
  const View y = view(outputs);
  Layer& layer = layer_of(linear, *found->second);
  const Choice choice = choose(layer, x);
  count(layer, choice);
  Products products(context_, layer, x, y);
  if (choice.channels.count() > 0)
    products.graded(choice.channels.data(), choice.reached);
  else if (!choice.rows.empty())
    products.by_row(choice.rows);
  else
    products.uniform(choice.uniform);
  if (!linear.bias.empty()) add_bias(y, weights_.linear(linear.id).bias.data(), context_.stream());
  if (policy_ && decoded_rows_ > 0) add_offset(layer, y);
}

DeviceQuantizedLinears::Layer& DeviceQuantizedLinears::layer_of(const LinearWeights& linear,
                                                                const QuantizedLinear& quantized) {
  std::unique_ptr<Layer>& layer = layers_[linear.id];
  if (!layer) {
    layer = std::make_unique<Layer>();
    layer->linear = &linear;
    layer->quantized = &quantized;
    layer->weights = upload(quantized, context_.stream());
  }
  return *layer;
}

DeviceQuantizedLinears::Choice DeviceQuantizedLinears::choose(Layer& layer, ConstView x) {
  const QuantizedLinear& quantized = *layer.quantized;
  const Level prefill = quantized.resolve(prefill_level_);
  Choice choice;
  if (decoded_rows_ == 0 || !policy_) {
    choice.uniform = decoded_rows_ == 0 ? prefill : quantized.full_level();
    return choice;
  }
  const bool mixed = decoded_rows_ < x.rows;
  if (const ChannelGrading* grading = policy_->grading(layer.linear->id)) {
    constexpr uint8_t kGraded = 255;  // grading.h: a row without a level of its own
    std::vector<uint8_t> fixed(steps_.size(), kGraded);
    for (size_t t = 0; t < fixed.size(); ++t) {
      if (steps_[t].phase == Phase::prefill)
        fixed[t] = prefill;
      else if (steps_[t].position < grading->full_tokens)
        fixed[t] = quantized.resolve(grading->full);
    }
    for (const Level level : grading->levels) insert(choice.reached, level);
    for (const uint8_t level : fixed)
      if (level != kGraded) insert(choice.reached, level);
    const std::span<const float> thresholds(grading->thresholds.data(),
                                            static_cast<size_t>(grading->thresholds.size()));
    if (!std::ranges::equal(thresholds, layer.known_thresholds)) {
      layer.known_thresholds.assign(thresholds.begin(), thresholds.end());
      layer.thresholds = context_.upload(thresholds.data(), static_cast<int64_t>(thresholds.size()));
    }
    GradingRule rule;
    rule.thresholds = layer.thresholds.data();
    rule.shared = grading->thresholds.cols() != x.cols;
    rule.count = static_cast<int32_t>(grading->levels.size());
    std::ranges::copy(grading->levels, rule.levels);
    rule.budget = grading->budget.value_or(-1.0);
    const bool any_fixed = std::ranges::count(fixed, kGraded) < static_cast<int64_t>(fixed.size());
    Array<uint8_t> fixed_rows;
    if (any_fixed) fixed_rows = context_.upload(fixed.data(), static_cast<int64_t>(fixed.size()));
    choice.channels = context_.array<uint8_t>(x.rows * x.cols);
    grade(x, rule, any_fixed ? fixed_rows.data() : nullptr, choice.channels.data(), context_.stream());
    return choice;
  }
  if (!policy_->looks_at_inputs()) {
    // One level a row: a column stands for all channels.
    MatrixBuffer<Level> scratch(x.rows, 1);
    const Precision chosen = policy_->choose(layer.linear->id, steps_, {nullptr, x.rows, 1}, scratch);
    choice.uniform = chosen.levels.empty() ? quantized.resolve(chosen.uniform) : kFullLevel;
    if (chosen.levels.empty() && !mixed) return choice;
    for (int64_t t = 0; t < x.rows; ++t) {
      const bool decoded = steps_[static_cast<size_t>(t)].phase == Phase::decode;
      choice.rows.push_back(!decoded                ? prefill
                            : chosen.levels.empty() ? choice.uniform
                                                    : chosen.levels(t, 0));
    }
    return choice;
  }
  // A policy that decides on the CPU.
  MatrixBuffer<float> host(x.rows, x.cols);
  context_.copy(
      {x.data, x.rows, x.cols, x.stride, x.type == Type::f32 ? DType::f32 : DType::bf16, Device::cuda}, host);
  MatrixBuffer<Level> levels(x.rows, x.cols);
  const Precision chosen = policy_->choose(layer.linear->id, steps_, host, levels);
  for (int64_t t = 0; t < x.rows; ++t) {
    if (steps_[static_cast<size_t>(t)].phase == Phase::prefill)
      std::fill_n(levels.row(t), x.cols, prefill);
    else if (chosen.levels.empty())
      std::fill_n(levels.row(t), x.cols, quantized.resolve(chosen.uniform));
  }
  for (const Level level : quantized.levels()) insert(choice.reached, level);
  choice.channels = context_.upload(levels.data(), levels.size());
  return choice;
}

void DeviceQuantizedLinears::count(const Layer& layer, const Choice& choice) {
  const QuantizedLinear& quantized = *layer.quantized;
  if (choice.channels.count() > 0) {
    const auto rows = static_cast<int64_t>(steps_.size());
    Counted& counted =
        counted_.emplace_back(Counted{&quantized, context_.array<int32_t>(rows * (kMaxLevel + 1))});
    count_levels(choice.channels.data(), rows, quantized.in(), counted.counts.data(), context_.stream());
    return;
  }
  std::map<Level, BitCount> bits;
  for (size_t t = 0; t < steps_.size(); ++t) {
    const Level level = choice.rows.empty() ? choice.uniform : choice.rows[t];
    auto [known, added] = bits.try_emplace(level);
    if (added) known->second = quantized.read_bits(LevelCounts::uniform(level, quantized.in()));
    traffic_.codes[t] += known->second.codes();
    traffic_.total[t] += known->second.total();
  }
}

void DeviceQuantizedLinears::add_offset(const Layer& layer, View y) {
  const std::span<const float> offset = policy_->offset(layer.linear->id);
  if (offset.empty()) return;
  const Array<float> values = context_.upload(offset.data(), static_cast<int64_t>(offset.size()));
  add_bias_where(y, values.data(), decodes_.data(), context_.stream());
  for (size_t t = 0; t < steps_.size(); ++t)
    if (steps_[t].phase == Phase::decode) traffic_.total[t] += 16 * y.cols;
}

const RowTraffic& DeviceQuantizedLinears::traffic() const {
  constexpr int64_t kLevels = kMaxLevel + 1;
  const auto rows = static_cast<int64_t>(steps_.size());
  std::vector<int32_t> counts(static_cast<size_t>(rows * kLevels));
  for (const Counted& counted : counted_) {
    to_host(counted.counts.data(), counts.data(), static_cast<int64_t>(counts.size() * sizeof(int32_t)),
            context_.stream());
    parallel_for((rows + 255) / 256, [&](int64_t task) {
      for (int64_t t = task * 256; t < std::min(rows, (task + 1) * 256); ++t) {
        LevelCounts channels;
        std::copy_n(counts.begin() + t * kLevels, kLevels, channels.channels.begin());
        const BitCount bits = counted.layer->read_bits(channels);
        traffic_.codes[static_cast<size_t>(t)] += bits.codes();
        traffic_.total[static_cast<size_t>(t)] += bits.total();
      }
    });
  }
  counted_.clear();
  return traffic_;
}

}  // namespace grinqh::cuda
