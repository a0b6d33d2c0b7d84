#include "experiment/runner.h"

#include <algorithm>
#include <chrono>
#include <set>

#include "calib/calibration_windows.h"
#include "calib/gradients.h"
#include "core/device.h"
#include "core/digest.h"
#include "core/registry.h"
#include "core/text.h"
#include "core/timed_scope.h"
#include "experiment/plan.h"
#include "experiment/prepare.h"
#include "experiment/provenance.h"
#include "experiment/rehearsal.h"
#include "experiment/sweep_statistics.h"
#include "experiment/transforms.h"
#include "runtime/backend.h"
#include "store/part_file.h"
#include "store/result_file.h"

namespace grinqh {

namespace {

class Stopwatch {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// Cells of one model whose methods quantize its weights alike.
struct QuantizationGroup {
  Json identity;
  size_t first = 0;      // index of the first group with the same model and transforms
  CollectorNames kept;   // statistics that policies need, pending or not: what is cached then fits any
  CollectorNames asked;  // of the float model, by quantizer and policies
  std::vector<const Cell*> pending;
};

// A model as the transforms of some methods left it.
struct TransformedStage {
  TransformedStage(std::string its_key, TransformedModel transformed, const DeviceChoice& device, double took)
      : key(std::move(its_key)),
        result(std::move(transformed)),
        transformer(make_transformer(result.model, device)),
        seconds(took) {}
  std::string key;
  TransformedModel result;
  std::unique_ptr<Transformer> transformer;
  double seconds;
};

// "cpu", "cuda", "cuda fp32": what results of the device are told apart by.
std::string device_column(const DeviceChoice& device) {
  return fmt::format("{}{}", to_string(device.device),
                     device.device != Device::cpu && device.arithmetic == Arithmetic::float32 ? " fp32" : "");
}

class Runner {
 public:
  Runner(const ExperimentSpec& spec, const RunOptions& options)
      : spec_(spec),
        options_(options),
        cache_(options.folder / "cache"),
        environment_(environment_provenance(spec.device)) {
    for (const MethodSpec& method : spec.methods) rehearse(method);
    for (const auto& folder : spec.models) stages_.push_back(std::make_unique<ModelStage>(spec, folder));
    cells_ = make_cells(spec, stages_, options.folder);
  }

  RunOutcome run() {
    std::vector<QuantizationGroup> groups;
    for (const Cell& cell : cells_) {
      const bool pending = options_.fresh || !cell.finished();
      outcome_.reused += !pending;
      if (options_.dry_run) fmt::print("{:10} {}\n", pending ? "to compute" : "finished", cell.name());
      add_to_group(cell, pending, groups);
    }
    if (options_.dry_run) return outcome_;
    // A place that cannot be written is refused before hours of computation, not after.
    if (outcome_.reused < static_cast<int64_t>(cells_.size())) PartFile(options_.folder / "writable");
    // Groups of one transformed model side by side, as it is made for them and dropped after.
    std::ranges::stable_sort(groups, {}, &QuantizationGroup::first);
    std::erase_if(groups, [](const QuantizationGroup& group) { return group.pending.empty(); });
    const ModelStage* current = nullptr;
    for (size_t i = 0; i < groups.size(); ++i) {
      const ModelStage* stage = groups[i].pending.front()->stage;
      if (current && current != stage) {
        transformed_.reset();
        current->release();
      }
      current = stage;
      if (i == 0 || groups[i - 1].first != groups[i].first) statistics_.clear();
      later_.clear();
      for (size_t j = i + 1; j < groups.size() && groups[j].first == groups[i].first; ++j)
        later_.insert(groups[j].asked.begin(), groups[j].asked.end());
      run_group(groups[i]);
    }
    cache_.finish();
    for (const Cell& cell : cells_)
      if (std::filesystem::exists(cell.path)) outcome_.results.push_back(cell.path);
    return outcome_;
  }

 private:
  void add_to_group(const Cell& cell, bool pending, std::vector<QuantizationGroup>& groups) const {
    Json identity = quantization_identity(spec_, *cell.stage, *cell.method);
    identity.erase("calibration");  // a policy that needs it changes nothing about the weights
    auto group = std::ranges::find(groups, identity, &QuantizationGroup::identity);
    if (group == groups.end()) {
      const auto same = std::ranges::find_if(groups, [&](const QuantizationGroup& other) {
        return other.identity["model"] == identity["model"] &&
               other.identity.value("transform", Json()) == identity.value("transform", Json());
      });
      const auto first = static_cast<size_t>(same - groups.begin());
      group = groups.insert(groups.end(), {identity, first, {}, {}, {}});
    }
    const CollectorNames of_policy = Registry<PrecisionPolicy>::get()
                                         .make(cell.method->policy.name, cell.method->policy.settings)
                                         ->needs();
    group->kept.insert(of_policy.begin(), of_policy.end());
    if (!pending) return;
    group->pending.push_back(&cell);
    const auto quantizer =
        Registry<Quantizer>::get().make(cell.method->quantizer.name, cell.method->quantizer.settings);
    CollectorNames asked = quantizer->needs();
    asked.insert(of_policy.begin(), of_policy.end());
    // Blocks that see quantized ones have statistics of their own, but for gradients.
    if (spec_.calibration.inputs == CalibrationInputs::quantized)
      std::erase_if(asked, [](const std::string& name) { return !is_gradient_statistic(name); });
    asked.merge(quantizer->survey_needs());
    group->asked.merge(asked);
  }

  // Quantizes once, then evaluates method by method.
  void run_group(const QuantizationGroup& group) {
    std::shared_ptr<const CachedCalibration> quantized;
    try {
      quantized = quantize(group);
    } catch (const BadInput&) {
      throw;
    } catch (const Error& error) {
      for (const Cell* cell : group.pending) record_failure(*cell, error.what());
      return;
    }
    for (auto cell = group.pending.begin(); cell != group.pending.end();) {
      const auto end = std::find_if(cell, group.pending.end(),
                                    [&](const Cell* other) { return other->method != (*cell)->method; });
      run_method({cell, end}, quantized->calibrated, quantized->seconds);
      cell = end;
    }
  }

  // From the cache if calibration had a part in it; quantizing alone is quick.
  std::shared_ptr<const CachedCalibration> quantize(const QuantizationGroup& group) {
    const Cell& cell = *group.pending.front();
    const ModelStage& stage = *cell.stage;
    const auto quantizer =
        Registry<Quantizer>::get().make(cell.method->quantizer.name, cell.method->quantizer.settings);
    CalibrationPlan plan;
    plan.inputs = spec_.calibration.inputs;
    plan.gradient_windows = spec_.calibration.gradient_windows;
    plan.gradient_context = spec_.calibration.gradient_context;
    plan.kept = group.kept;
    if (plan.inputs == CalibrationInputs::floating) {
      plan.also = later_;
      std::erase_if(plan.also, is_gradient_statistic);
    }
    plan.layers = cell.method->layers;
    const bool calibrates =
        !group.kept.empty() || !quantizer->needs().empty() || !quantizer->survey_needs().empty();
    std::string key;
    MatrixBuffer<int32_t> windows;
    if (calibrates) {
      Json identity = group.identity;
      identity["calibration"] = stage.calibration_identity;
      identity["kept"] = group.kept;
      key = digest_of(identity.dump());
      if (auto cached = cache_.load_calibration(key))
        return std::make_shared<const CachedCalibration>(std::move(*cached));
      windows = calibration_windows(stage, spec_.calibration.windows, spec_.calibration.context);
      plan.windows = windows.view();
    }
    const Transformer& transformer = subject(cell);
    const std::string statistics = statistics_key(stage, transformer.model());
    plan.store = shared_statistics(statistics, group.asked);
    plan.gradient_store = shared_statistics("gradients-" + statistics, group.asked);
    const Stopwatch watch;
    auto result = std::make_shared<CachedCalibration>();
    result->calibrated = calibrate_and_quantize(transformer, *quantizer, plan);
    result->seconds = watch.seconds();
    if (calibrates) {
      const TimedScope timed("quantized weights are stored");
      cache_.save_calibration(key, result);
    }
    return result;
  }

  // Of the model at hand.
  const StatisticsStore* shared_statistics(const std::string& key, const CollectorNames& now) {
    std::unique_ptr<SweepStatistics>& store = statistics_[key];
    if (!store) store = std::make_unique<SweepStatistics>(cache_.statistics(key));
    store->expect(now, later_);
    return store.get();
  }

  // What the float model's statistics depend on.
  static std::string statistics_key(const ModelStage& stage, const Model& model) {
    Json identity = stage.calibration_identity;
    identity.erase("inputs");
    identity["model"] = model.digest;
    add_device(stage.device, identity);
    return digest_of(identity.dump());
  }

  // The model that the cell's layers are those of.
  const Transformer& subject(const Cell& cell) {
    const TimedScope timed("model is made ready");
    const ModelStage& stage = *cell.stage;
    const std::vector<PluginSpec>& transforms = cell.method->transforms;
    if (transforms.empty()) return stage.transformer();
    const Json identity{{"model", stage.model.digest},
                        {"transform", to_json(transforms)},
                        {"calibration", stage.calibration_identity},
                        {"seed", spec_.seed}};
    const std::string key = identity.dump();
    if (transformed_ && transformed_->key == key) return *transformed_->transformer;
    transformed_.reset();  // before the next one takes memory
    const MatrixBuffer<int32_t> windows =
        calibration_windows(stage, spec_.calibration.windows, spec_.calibration.context);
    const Stopwatch watch;
    TransformedModel result =
        apply_transforms(transforms, stage.model, windows, static_cast<uint64_t>(spec_.seed), spec_.device);
    transformed_ = std::make_unique<TransformedStage>(key, std::move(result), spec_.device, watch.seconds());
    return *transformed_->transformer;
  }

  MatrixBuffer<int32_t> calibration_windows(const ModelStage& stage, int64_t windows, int64_t context) const {
    const CalibrationSpec& calibration = spec_.calibration;
    if (calibration.text != "self") {
      if (static_cast<int64_t>(stage.calibration_tokens.size()) < context)
        bad_input("{}: the text has {} tokens, one window needs {}", calibration.text,
                  stage.calibration_tokens.size(), context);
      return spread_windows(stage.calibration_tokens, windows, context);
    }
    Json identity{
        {"model", stage.model.digest}, {"windows", windows}, {"context", context}, {"seed", spec_.seed}};
    add_device(spec_.device, identity);
    return cache_.windows(digest_of(identity.dump()), [&] {
      return sample_windows(stage.transformer(), windows, context, static_cast<uint64_t>(spec_.seed));
    });
  }

  // Lets the method's policy find its schedule on this model.
  void plan(PrecisionPolicy& policy, const Cell& cell, const QuantizedModel& quantized) {
    const MethodSpec& method = *cell.method;
    const ModelStage& stage = *cell.stage;
    Json identity = quantization_identity(spec_, stage, method);
    identity["calibration"] = stage.calibration_identity;
    identity["validation"] = validation_identity(method);
    identity["phase_prefill"] = method.prefill_level;
    CachedValues values(cache_, std::move(identity));
    plan_policy(
        policy, method, subject(cell), quantized,
        {[&](int64_t windows, int64_t context) { return calibration_windows(stage, windows, context); },
         values});
  }

  // Cells of one method: they share the prepared policy.
  void run_method(std::span<const Cell* const> cells, const Calibrated& calibrated, double quantize_seconds) {
    const MethodSpec& method = *cells.front()->method;
    const ModelStage& stage = *cells.front()->stage;
    const Stopwatch watch;
    std::unique_ptr<PrecisionPolicy> policy;
    try {
      MatrixBuffer<int32_t> windows;
      if (method.calibrates())
        windows = calibration_windows(stage, spec_.calibration.windows, spec_.calibration.context);
      policy = prepare_policy(method, subject(*cells.front()), calibrated, windows);
      plan(*policy, *cells.front(), calibrated.model);
    } catch (const BadInput&) {
      throw;
    } catch (const Error& error) {
      for (const Cell* cell : cells) record_failure(*cell, error.what());
      return;
    }
    const double seconds =
        quantize_seconds + watch.seconds() + (method.transforms.empty() ? 0.0 : transformed_->seconds);
    for (const Cell* cell : cells) {
      try {
        evaluate(*cell, calibrated, *policy, seconds);
      } catch (const BadInput&) {
        throw;
      } catch (const Error& error) {
        record_failure(*cell, error.what());
      }
    }
  }

  void evaluate(const Cell& cell, const Calibrated& calibrated, const PrecisionPolicy& policy,
                double quantize_seconds) {
    const QuantizedModel& quantized = calibrated.model;
    const ModelStage& stage = *cell.stage;
    std::unique_ptr<ReferenceFeatures> reference;
    if (cell.evaluation->reference) {
      Digest key;
      key.add_field(stage.model.digest)
          .add(std::as_bytes(
              std::span(cell.windows->tokens.data(), static_cast<size_t>(cell.windows->tokens.size()))));
      key.add_field(std::to_string(cell.windows->context()));
      if (spec_.device.device != Device::cpu) key.add_field(device_column(spec_.device));
      reference = cache_.features(key.hex(), stage.transformer(), *cell.windows);
    }
    QuantizedLanguageModel model(subject(cell), quantized, &policy, cell.method->prefill_level);
    const auto evaluator =
        Registry<Evaluator>::get().make(cell.evaluation->evaluator.name, cell.evaluation->evaluator.settings);
    ResultWriter result(cell.path, cell.digest);
    write_row(cell, result);
    const Stopwatch watch;
    const TimedScope timed("evaluation");
    evaluator->run({model, reference.get(), *cell.windows, cell.evaluation->prompt_tokens(),
                    fmt::format("[{}/{}] {}", cell.order + 1, cells_.size(), cell.name())},
                   result);
    result.scalar("stored_bits", quantized.stored_bits(), "bit");
    result.scalar("quantize_seconds", quantize_seconds, "s");
    result.scalar("evaluate_seconds", watch.seconds(), "s");
    result.text("status", "ok");
    if (!cell.method->transforms.empty())
      result.provenance("transform_logits_error", fmt::format("{:.2e}", transformed_->result.logits_error));
    std::set<std::string> kernels;  // that ran
    for (const auto& [id, layer] : quantized.layers) {
      const Kernel& kernel = find_kernel(layer->layout(), spec_.device.device);
      kernels.insert(fmt::format("{}/{}/{}", kernel.layout, to_string(kernel.device), kernel.name));
    }
    result.provenance("kernels", join(std::vector<std::string>(kernels.begin(), kernels.end()), ", "));
    if (!calibrated.notes.empty()) result.provenance("layer_notes", Json(calibrated.notes).dump());
    if (const Json findings = policy.findings(); !findings.is_null())
      result.provenance("policy_findings", findings.dump());
    write_provenance(cell, result);
    result.commit();
    ++outcome_.computed;
  }

  void record_failure(const Cell& cell, std::string why) {
    std::ranges::replace(why, '\n', ' ');  // one line, whoever wrote it
    fmt::print(stderr, "grinqh: {} failed: {}\n", cell.name(), why);
    ResultWriter result(cell.path, cell.digest);
    write_row(cell, result);
    result.text("status", "failed: " + why);
    write_provenance(cell, result);
    result.commit();
    ++outcome_.failed;
  }

  void write_row(const Cell& cell, ResultWriter& result) const {
    Json options = cell.method->quantizer.options;
    if (!cell.method->transforms.empty()) options["transform"] = to_json(cell.method->transforms);
    options["policy"] = cell.method->policy.options;
    if (cell.method->layers != std::vector<std::string>{"*"}) options["layers"] = cell.method->layers;
    if (cell.method->prefill_level != kFullLevel) options["phase_prefill"] = cell.method->prefill_level;
    result.text("model", cell.stage->model.name());
    result.text("quantizer", cell.method->quantizer.name);
    result.text("policy", cell.method->policy.name);
    result.text("options", options.dump());
    result.text("label", cell.method->label);
    result.text("device", device_column(spec_.device));
    result.text("dataset", cell.evaluation->text.filename().string());
    result.text("protocol", cell.evaluation->protocol);
    result.text("phase", to_string(cell.evaluation->phase));
    result.integer("context", cell.evaluation->context);
    result.integer("seed", spec_.seed);
    result.integer("order", cell.order);
  }

  void write_provenance(const Cell& cell, ResultWriter& result) const {
    for (const auto& [key, value] : environment_) result.provenance(key, value);
    result.provenance("command", options_.command);
    result.provenance("experiment", spec_.title);
    result.provenance("resolved_toml", cell_toml(spec_, cell));
    result.provenance("model_digest", cell.stage->model.digest);
    result.provenance("text_digest", digest_of(read_file(cell.evaluation->text.string(), "text")));
    result.provenance("calibration", cell.stage->calibration_identity.dump());
  }

  const ExperimentSpec& spec_;
  const RunOptions& options_;
  ArtifactCache cache_;
  std::map<std::string, std::string> environment_;
  std::vector<std::unique_ptr<ModelStage>> stages_;
  std::vector<Cell> cells_;
  std::unique_ptr<TransformedStage> transformed_;                       // of the group at hand
  std::map<std::string, std::unique_ptr<SweepStatistics>> statistics_;  // of the model at hand, by key
  CollectorNames later_;  // what groups to come ask for of the same model
  RunOutcome outcome_;
};

}  // namespace

RunOutcome run_experiment(const ExperimentSpec& spec, const RunOptions& options) {
  const AcceleratorScope scope(make_accelerator(spec.device));
  return Runner(spec, options).run();
}

}  // namespace grinqh
