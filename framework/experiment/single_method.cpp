#include "experiment/single_method.h"

#include <algorithm>
#include <chrono>
#include <mutex>

#include "calib/calibration_windows.h"
#include "core/registry.h"
#include "core/text.h"
#include "experiment/plan.h"
#include "experiment/prepare.h"
#include "experiment/transforms.h"
#include "model/model_text.h"

namespace grinqh {

namespace {

using Clock = std::chrono::steady_clock;

template <class Work>
void add_time(double& seconds, const Work& work) {
  const auto begin = Clock::now();
  work();
  seconds += std::chrono::duration<double>(Clock::now() - begin).count();
}

MatrixBuffer<int32_t> windows_of(const QuickCalibration& calibration, const Transformer& transformer,
                                 int64_t count, int64_t context) {
  if (calibration.text == "self") return sample_windows(transformer, count, context, calibration.seed);
  const std::vector<int32_t> ids =
      ModelText(transformer.model())
          .encode(read_file(calibration.text, "calibration text"), calibration.text);
  const int64_t whole = static_cast<int64_t>(ids.size()) / context;
  if (whole == 0)
    bad_input("{}: the text has {} tokens, one calibration window needs {}", calibration.text, ids.size(),
              context);
  return spread_windows(ids, std::min(count, whole), context);
}

// Time during which at least one layer is quantized, on however many threads.
class TimedQuantizer final : public Quantizer {
 public:
  explicit TimedQuantizer(Quantizer& inner) : inner_(inner) {}
  CollectorNames needs() const override { return inner_.needs(); }
  std::vector<TransformChoice> transforms() const override { return inner_.transforms(); }
  bool surveys() const override { return inner_.surveys(); }
  CollectorNames survey_needs() const override { return inner_.survey_needs(); }
  void survey(const LinearTask& task) override { inner_.survey(task); }
  void allot() override { inner_.allot(); }
  bool sequential_in_block() const override { return inner_.sequential_in_block(); }
  std::unique_ptr<QuantizedLinear> quantize(const LinearTask& task) const override {
    const Running running(*this);
    return inner_.quantize(task);
  }
  double seconds() const { return seconds_; }

 private:
  class Running {
   public:
    explicit Running(const TimedQuantizer& owner) : owner_(owner) {
      const std::lock_guard lock(owner_.mutex_);
      if (owner_.running_++ == 0) owner_.begin_ = Clock::now();
    }
    ~Running() {
      const std::lock_guard lock(owner_.mutex_);
      if (--owner_.running_ == 0)
        owner_.seconds_ += std::chrono::duration<double>(Clock::now() - owner_.begin_).count();
    }
    Running(const Running&) = delete;

   private:
    const TimedQuantizer& owner_;
  };

  Quantizer& inner_;
  mutable std::mutex mutex_;
  mutable int running_ = 0;
  mutable Clock::time_point begin_;
  mutable double seconds_ = 0;
};

}  // namespace

SingleMethod::SingleMethod(std::span<const MethodSpec> methods, const Transformer& transformer,
                           const QuickCalibration& calibration)
    : transformer_(transformer), prefill_level_(methods.front().prefill_level) {
  const MethodSpec& method = methods.front();
  CalibrationPlan plan;
  for (const MethodSpec& each : methods)
    plan.kept.merge(Registry<PrecisionPolicy>::get().make(each.policy.name, each.policy.settings)->needs());
  plan.layers = method.layers;
  MatrixBuffer<int32_t> windows;
  if (std::ranges::any_of(methods, &MethodSpec::calibrates))
    add_time(seconds_.windows, [&] {
      windows = windows_of(calibration, transformer, calibration.windows,
                           std::min(calibration.context, transformer.model().config.max_context));
    });
  plan.windows = windows.view();
  if (!method.transforms.empty())
    add_time(seconds_.transform, [&] {
      transformed_ = apply_transforms(method.transforms, transformer.model(), windows, calibration.seed,
                                      transformer.device());
      its_transformer_ = make_transformer(transformed_->model, transformer.device());
    });
  const auto quantizer = Registry<Quantizer>::get().make(method.quantizer.name, method.quantizer.settings);
  TimedQuantizer timed(*quantizer);
  double both = 0;
  add_time(both, [&] { calibrated_ = calibrate_and_quantize(subject(), timed, plan); });
  seconds_.quantize = timed.seconds();
  seconds_.calibrate = both - timed.seconds();
  add_time(seconds_.policy, [&] {
    for (const MethodSpec& each : methods) {
      policies_.push_back(prepare_policy(each, subject(), calibrated_, windows));
      MemoryStore values;
      plan_policy(*policies_.back(), each, subject(), calibrated_.model,
                  {[&](int64_t count, int64_t context) {
                     return windows_of(calibration, transformer, count, context);
                   },
                   values});
    }
  });
}

bool quantize_alike(const MethodSpec& a, const MethodSpec& b) {
  const auto same = [](const PluginSpec& x, const PluginSpec& y) {
    return x.name == y.name && x.options == y.options;
  };
  return same(a.quantizer, b.quantizer) && a.layers == b.layers && a.prefill_level == b.prefill_level &&
         std::ranges::equal(a.transforms, b.transforms, same);
}

std::unique_ptr<QuantizedLinear> quantize_alone(const MethodSpec& method, const std::string& id,
                                                const TensorView& weight) {
  const auto quantizer = Registry<Quantizer>::get().make(method.quantizer.name, method.quantizer.settings);
  const MatrixBuffer<float> values = to_float(weight);
  const LayerStats nothing{};
  return quantizer->quantize({id, values.view(), nothing});
}

}  // namespace grinqh
