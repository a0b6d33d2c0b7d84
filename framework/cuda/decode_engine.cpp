#include "cuda/decode_engine.h"

#include <algorithm>
#include <deque>
#include <map>
#include <thread>
#include <typeinfo>

#include "core/error.h"
#include "core/rng.h"
#include "cuda/device_properties.h"
#include "cuda/ops.h"
#include "cuda/step_model.h"

namespace grinqh::cuda {

namespace {

constexpr int32_t kRing = 8;       // steps of which the host can still see what they left
constexpr int64_t kMostAhead = 4;  // steps under way: enough that the device never waits for the host
constexpr int32_t kNotYet = -1;    // a token that has not been drawn
constexpr int64_t kLevels = kMaxLevel + 1;

// Memory of the host that kernels write to.
template <class T>
class Shared {
 public:
  explicit Shared(int64_t count) : count_(count) {
    check_call(cudaHostAlloc(reinterpret_cast<void**>(&data_), static_cast<size_t>(count) * sizeof(T),
                             cudaHostAllocMapped),
               "cudaHostAlloc");
  }
  ~Shared() { cudaFreeHost(data_); }
  Shared(const Shared&) = delete;
  T* data() const { return data_; }
  int64_t count() const { return count_; }

 private:
  T* data_ = nullptr;
  int64_t count_;
};

class Graph {
 public:
  Graph() = default;
  Graph(Stream stream, const std::function<void()>& launches) {
    check_call(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed), "cudaStreamBeginCapture");
    cudaGraph_t graph = nullptr;
    try {
      launches();
    } catch (...) {
      cudaStreamEndCapture(stream, &graph);
      if (graph) cudaGraphDestroy(graph);
      throw;
    }
    check_call(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
    const cudaError_t status = cudaGraphInstantiate(&executable_, graph, 0);
    cudaGraphDestroy(graph);
    check_call(status, "cudaGraphInstantiate");
  }
  ~Graph() {
    if (executable_) cudaGraphExecDestroy(executable_);
  }
  Graph(const Graph&) = delete;
  void launch(Stream stream) const { check_call(cudaGraphLaunch(executable_, stream), "cudaGraphLaunch"); }

 private:
  cudaGraphExec_t executable_ = nullptr;
};

// Events that a graph records between its launches.
class Marks {
 public:
  ~Marks() {
    for (const auto& [part, event] : marks_) cudaEventDestroy(event);
  }
  void add(StepPart part, Stream stream) {
    cudaEvent_t event = nullptr;
    check_call(cudaEventCreate(&event), "cudaEventCreate");
    marks_.emplace_back(part, event);
    check_call(cudaEventRecordWithFlags(event, stream, cudaEventRecordExternal), "cudaEventRecord");
  }
  DecodeSplit seconds() const {
    DecodeSplit split;
    for (size_t i = 1; i < marks_.size(); ++i) {
      float milliseconds = 0;
      check_call(cudaEventElapsedTime(&milliseconds, marks_[i - 1].second, marks_[i].second),
                 "cudaEventElapsedTime");
      double* const of[] = {&split.products, &split.attention, &split.head, &split.other};
      *of[static_cast<size_t>(marks_[i].first)] += static_cast<double>(milliseconds) * 1e-3;
    }
    return split;
  }

 private:
  std::vector<std::pair<StepPart, cudaEvent_t>> marks_;
};

// What the host knows of a step.
struct StepRecord {
  int64_t number;
  std::vector<Level> readings;  // [sequences, layers]
  std::vector<int32_t> positions;
  bool counted;
};

class DecodeEngine final : public Decoder {
 public:
  DecodeEngine(const DeviceTransformer& transformer, DeviceQuantizedLinears* quantized,
               std::unique_ptr<StepModel> model, const DecodePlan& plan)
      : transformer_(transformer),
        quantized_(quantized),
        policy_(quantized ? quantized->policy() : nullptr),
        plan_(plan),
        model_(std::move(model)),
        tokens_(kRing * plan.sequences),
        levels_(kRing * model_->count_size()) {}

  ~DecodeEngine() override { cudaStreamSynchronize(transformer_.context().stream()); }

  std::string_view name() const override {
    return model_->streams() ? "cuda graphs" : "cuda graphs, library products";
  }
  KvCache& cache() override { return model_->cache(); }
  int64_t most_ahead() const override { return kMostAhead; }

  void begin(std::span<const int32_t> tokens, std::span<const int32_t> positions, const Sampling& sampling,
             uint64_t draws) override {
    check(std::ssize(tokens) == plan_.sequences && std::ssize(positions) == plan_.sequences,
          "a token and a position of every sequence");
    transformer_.synchronize();
    StepModel::Sequences start;
    start.tokens.assign(tokens.begin(), tokens.end());
    start.positions.assign(positions.begin(), positions.end());
    start.steps.assign(tokens.size(), 0);
    for (size_t s = 0; s < tokens.size(); ++s) {
      Rng random(sampling.seed, sampling.first_stream + s);
      random.skip(draws);
      start.chance.push_back(random.state());
    }
    model_->set(start);
    positions_ = start.positions;
    if (sampling.temperature != temperature_) graphs_.clear();
    temperature_ = sampling.temperature;
    next_ = 0;
    unread_.clear();
    std::fill_n(tokens_.data(), tokens_.count(), kNotYet);
  }

  void count_bits(bool on) override { plan_.counts_bits = on; }

  void advance(std::span<const Level> scheduled) override {
    check(std::ssize(unread_) < kMostAhead, "steps that nobody reads");
    StepRecord record = next_record(scheduled);
    std::string key(record.readings.begin(), record.readings.end());
    key += record.counted ? '+' : '-';
    std::unique_ptr<Graph>& graph = graphs_[key];
    if (!graph) {
      warm_up(record);
      graph = std::make_unique<Graph>(transformer_.context().stream(), [&] { enqueue(record, {}); });
    }
    graph->launch(transformer_.context().stream());
    begun(std::move(record));
  }

  std::vector<int32_t> read() override {
    check(!unread_.empty(), "a step to read");
    last_ = std::move(unread_.front());
    unread_.pop_front();
    int32_t* row = tokens_.data() + last_.number % kRing * plan_.sequences;
    std::vector<int32_t> tokens;
    for (int64_t s = 0; s < plan_.sequences; ++s) tokens.push_back(wait_for(row + s));
    std::fill_n(row, plan_.sequences, kNotYet);
    return tokens;
  }

  void logits(Matrix<float> to) override { transformer_.copy(activations(model_->logits()), to); }

  const RowTraffic& traffic() override {
    traffic_.codes.assign(static_cast<size_t>(plan_.sequences), 0);
    traffic_.total = traffic_.codes;
    if (last_.readings.empty()) return traffic_;  // nothing has been read yet
    const int32_t* counts = levels_.data() + last_.number % kRing * model_->count_size();
    for (int64_t i = 0; i < model_->layers(); ++i) {
      const StepLayer& layer = model_->layer(i);
      if (!layer.quantized) continue;
      for (int64_t s = 0; s < plan_.sequences; ++s) {
        const Level reading = last_.readings[static_cast<size_t>(s * model_->layers() + i)];
        check(!is_graded(reading) || last_.counted, "bits are counted where tokens choose them");
        LevelCounts read =
            LevelCounts::uniform(is_graded(reading) ? Level{0} : reading, layer.quantized->in());
        if (is_graded(reading))
          std::copy_n(counts + (i * plan_.sequences + s) * kLevels, kLevels, read.channels.begin());
        const BitCount bits = layer.quantized->read_bits(read);
        traffic_.codes[static_cast<size_t>(s)] += bits.codes();
        traffic_.total[static_cast<size_t>(s)] += bits.total() + 16 * std::ssize(layer.offset);
      }
    }
    if (quantized_) quantized_->set_traffic(traffic_);
    return traffic_;
  }

  DecodeBytes bytes() override {
    const int64_t size = size_of(transformer_.context().type());
    DecodeBytes bytes;
    for (int64_t i = 0; i < model_->layers(); ++i) {
      const StepLayer& layer = model_->layer(i);
      if (!layer.quantized) bytes.weights += layer.out() * layer.in() * size;
      if (layer.linear && !layer.linear->bias.empty()) bytes.weights += layer.out() * 4;
    }
    // A weight that one sequence reads is there for all of them.
    if (quantized_) bytes.weights += std::ranges::max(traffic().total) / 8;
    const Activations keys = model_->cache().keys(0, 0);
    for (const int32_t position : last_.positions)
      bytes.cache += int64_t{position} * 2 * transformer_.blocks() * keys.cols * size;
    bytes.head = plan_.head ? plan_.head->stored_bits().total() / 8
                            : transformer_.vocab() * transformer_.hidden() * size;
    return bytes;
  }

  DecodeSplit split() override {
    StepRecord record = next_record(scheduled_);
    warm_up(record);
    const Stream stream = transformer_.context().stream();
    Marks marks;
    const Graph graph(stream, [&] {
      marks.add(StepPart::other, stream);
      enqueue(record, [&](StepPart part) { marks.add(part, stream); });
    });
    graph.launch(stream);
    begun(std::move(record));
    while (!unread_.empty()) read();
    transformer_.synchronize();
    return marks.seconds();
  }

 private:
  StepRecord next_record(std::span<const Level> scheduled) {
    for (const int32_t position : positions_) check(position < plan_.capacity, "cache capacity");
    scheduled_.assign(scheduled.begin(), scheduled.end());
    choose_readings();
    const bool graded = std::ranges::any_of(readings_, is_graded);
    return {next_, readings_, positions_, plan_.counts_bits && graded};
  }

  // [sequences, layers]. As DeviceQuantizedLinears chooses them, a level a row.
  void choose_readings() {
    const int64_t layers = model_->layers();
    if (!policy_ && !readings_.empty()) return;
    readings_.assign(static_cast<size_t>(plan_.sequences * layers), kFullLevel);
    std::vector<Step> steps;
    for (size_t s = 0; s < positions_.size(); ++s)
      steps.push_back({Phase::decode, positions_[s], static_cast<int32_t>(next_),
                       scheduled_.empty() ? kFullLevel : scheduled_[s]});
    MatrixBuffer<Level> scratch(plan_.sequences, 1);
    for (int64_t i = 0; i < layers; ++i) {
      const StepLayer& layer = model_->layer(i);
      if (!layer.quantized) continue;
      Precision chosen;
      if (policy_ && layer.gradings.empty())
        chosen = policy_->choose(layer.linear->id, steps, {nullptr, plan_.sequences, 1}, scratch);
      for (int64_t s = 0; s < plan_.sequences; ++s) {
        Level& reading = readings_[static_cast<size_t>(s * layers + i)];
        if (layer.gradings.empty())
          reading = layer.quantized->resolve(chosen.levels.empty() ? chosen.uniform : chosen.levels(s, 0));
        else
          reading = graded(layer, steps[static_cast<size_t>(s)]);
      }
    }
  }

  Level graded(const StepLayer& layer, const Step& step) const {
    const ChannelGrading* grading = policy_->grading_of(layer.linear->id, step);
    if (step.position < grading->full_tokens) return layer.quantized->resolve(grading->full);
    const auto at = std::ranges::find(layer.gradings, grading);
    check(at != layer.gradings.end(), "a token's grading is one of the layer's");
    return graded_reading(static_cast<size_t>(at - layer.gradings.begin()));
  }

  void enqueue(const StepRecord& record, std::function<void(StepPart)> mark) {
    model_->enqueue({{record.readings.data(), plan_.sequences, model_->layers()},
                     static_cast<float>(temperature_),
                     record.counted,
                     tokens_.data(),
                     levels_.data(),
                     kRing,
                     std::move(mark)});
  }

  // Once without a graph: libraries choose their algorithms, and kernels come onto the device. The step is
  // the one to come, taken back afterwards: what it appended to the cache is what it appends again.
  void warm_up(const StepRecord& record) {
    const StepModel::Sequences before = model_->get();
    enqueue(record, {});
    transformer_.synchronize();
    std::fill_n(tokens_.data() + record.number % kRing * plan_.sequences, plan_.sequences, kNotYet);
    model_->set(before);
  }

  void begun(StepRecord record) {
    unread_.push_back(std::move(record));
    for (int32_t& position : positions_) ++position;
    ++next_;
  }

  int32_t wait_for(const volatile int32_t* token) const {
    constexpr int kSpins = 4096;
    for (int spins = 0;; ++spins) {
      if (const int32_t value = *token; value != kNotYet) return value;
      if (spins % kSpins != kSpins - 1) continue;
      const cudaError_t status = cudaStreamQuery(transformer_.context().stream());
      if (status != cudaErrorNotReady) {
        check_call(status, "a decode step");
        if (*token == kNotYet) fail("CUDA: a decode step has ended and left no token");
      }
    }
  }

  const DeviceTransformer& transformer_;
  DeviceQuantizedLinears* quantized_;
  const PrecisionPolicy* policy_;
  DecodePlan plan_;
  std::unique_ptr<StepModel> model_;
  Shared<int32_t> tokens_;                                // [kRing, sequences]
  Shared<int32_t> levels_;                                // [kRing, layers, sequences, kLevels]
  std::map<std::string, std::unique_ptr<Graph>> graphs_;  // by what they read, and whether they count
  double temperature_ = 0;

  int64_t next_ = 0;  // step
  std::vector<int32_t> positions_;
  std::vector<Level> scheduled_, readings_;
  std::deque<StepRecord> unread_;
  StepRecord last_{};
  RowTraffic traffic_;
};

std::string obstacle(const DeviceTransformer& transformer, const DeviceQuantizedLinears* quantized,
                     const DecodePlan& plan) {
  const int major = device_properties(transformer.context().choice().index).major;
  const AttentionShape shape = transformer.shape();
  if (major < 9) return fmt::format("compute capability {}.x is below 9.0", major);
  if (plan.sequences > kMaxGemvTokens)
    return fmt::format("{} sequences are more than {}", plan.sequences, kMaxGemvTokens);
  if (shape.head_dim % 8 != 0 || shape.head_dim > 256)
    return fmt::format("heads of {} dimensions", shape.head_dim);
  if (transformer.model().config.intermediate % 8 != 0)
    return fmt::format("{} inputs of the down projections are no multiple of 8",
                       transformer.model().config.intermediate);
  if (!quantized || !quantized->policy() || !quantized->policy()->looks_at_inputs()) return {};
  for (const auto& [id, layer] : quantized->model().layers) {
    const auto gradings = std::ssize(quantized->policy()->gradings(id));
    if (gradings == 0) return "the policy decides on the host from what layers multiply";
    if (gradings > kMostGradings) return fmt::format("the policy grades in {} ways", gradings);
  }
  return {};
}

}  // namespace

std::unique_ptr<Decoder> make_decode_engine(const DeviceTransformer& transformer, LinearExecutor& linears,
                                            const DecodePlan& plan, std::string& why_not) {
  auto* quantized = dynamic_cast<DeviceQuantizedLinears*>(&linears);
  if (!quantized && typeid(linears) != typeid(DeviceLinears)) {
    why_not = "the linear layers are of another kind";
    return nullptr;
  }
  why_not = obstacle(transformer, quantized, plan);
  if (!why_not.empty()) return nullptr;

  const PrecisionPolicy* policy = quantized ? quantized->policy() : nullptr;
  const auto layer_of = [&](const LinearWeights& linear) {
    StepLayer layer;
    layer.linear = &linear;
    if (!quantized || !quantized->replaces(linear.id)) {
      layer.weight = transformer.weights().linear(linear.id).weight;
      return layer;
    }
    layer.quantized = quantized->model().layers.find(linear.id)->second.get();
    layer.packed = &quantized->packed(linear);
    if (policy) {
      layer.gradings = policy->gradings(linear.id);
      layer.offset = policy->offset(linear.id);
    }
    return layer;
  };
  StepLayer head;
  head.weight = transformer.weights().head();
  std::unique_ptr<DeviceWeights> packed_head;
  if (plan.head) {
    head.quantized = plan.head;
    packed_head = upload(*plan.head, transformer.context().stream());
    head.packed = packed_head.get();
  }
  GemvStore of_floats;
  auto model = std::make_unique<StepModel>(transformer, layer_of, head, std::move(packed_head),
                                           quantized ? quantized->kernels() : of_floats,
                                           transformer.head_kernels(), plan);
  return std::make_unique<DecodeEngine>(transformer, quantized, std::move(model), plan);
}

}  // namespace grinqh::cuda
