#include "calib/make_collector.h"

namespace grinqh {

namespace {

// A collector of the CPU, for activations elsewhere.
class Fetching final : public Collector {
 public:
  Fetching(const Transformer& transformer, std::unique_ptr<Collector> inner)
      : transformer_(transformer), inner_(std::move(inner)) {}
  void observe(ConstActivations x) override { inner_->observe(transformer_.to_host(x)); }
  PlainVector<float> finish() override { return inner_->finish(); }

 private:
  const Transformer& transformer_;
  std::unique_ptr<Collector> inner_;
};

// The same for two matrices at a time.
template <class Base>
class FetchingPairs final : public Base {
 public:
  FetchingPairs(const Transformer& transformer, std::unique_ptr<Base> inner)
      : transformer_(transformer), inner_(std::move(inner)) {}
  void observe(ConstActivations x, ConstActivations other) override {
    inner_->observe(transformer_.to_host(x), transformer_.to_host(other));
  }
  PlainVector<float> finish() override { return inner_->finish(); }

 private:
  const Transformer& transformer_;
  std::unique_ptr<Base> inner_;
};

template <class Base, class Elsewhere>
std::unique_ptr<Base> make(const std::string& name, const Transformer& transformer) {
  auto of_cpu = Registry<Base>::get().make(name);
  const Device device = transformer.device().device;
  if (device == Device::cpu) return of_cpu;
  const auto own = device_collectors<Base>().find({device, name});
  if (own != device_collectors<Base>().end()) return own->second(transformer);
  return std::make_unique<Elsewhere>(transformer, std::move(of_cpu));
}

}  // namespace

std::unique_ptr<Collector> make_collector(const std::string& name, const Transformer& transformer) {
  return make<Collector, Fetching>(name, transformer);
}

std::unique_ptr<DriftCollector> make_drift_collector(const std::string& name,
                                                     const Transformer& transformer) {
  return make<DriftCollector, FetchingPairs<DriftCollector>>(name, transformer);
}

std::unique_ptr<GradientCollector> make_gradient_collector(const std::string& name,
                                                           const Transformer& transformer) {
  return make<GradientCollector, FetchingPairs<GradientCollector>>(name, transformer);
}

}  // namespace grinqh
