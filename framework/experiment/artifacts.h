// Stages of a sweep that several cells share, kept on disk by the digest of what they depend on: calibration
// windows that were sampled, quantized weights with their statistics, the float model's final hidden states,
// and what policies found out by trial.
#pragma once

#include <filesystem>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "calib/calibrate.h"
#include "calib/schedule_trial.h"
#include "eval/evaluator.h"

namespace grinqh {

struct CachedCalibration {
  Calibrated calibrated;
  double seconds = 0;  // that calibration and quantization took
};

class ArtifactCache {
 public:
  explicit ArtifactCache(std::filesystem::path folder) : folder_(std::move(folder)) {}
  // Waits until everything is on the disk, which goes on after quantized weights were written. Error if it
  // failed.
  void finish() const;

  // Each returns what is stored under the key, or computes and stores it. A damaged file counts as absent.
  MatrixBuffer<int32_t> windows(const std::string& key,
                                const std::function<MatrixBuffer<int32_t>()>& compute) const;
  // `transformer` outlives what is returned.
  std::unique_ptr<ReferenceFeatures> features(const std::string& key, const Transformer& transformer,
                                              const Windows& windows) const;

  // Statistics of the float model's blocks, under the key of model and windows.
  std::unique_ptr<StatisticsStore> statistics(const std::string& key) const;

  std::optional<CachedCalibration> load_calibration(const std::string& key) const;
  // Goes on while it is used, which nobody changes.
  void save_calibration(const std::string& key, std::shared_ptr<const CachedCalibration> calibration) const;

  std::optional<std::vector<double>> load_values(const std::string& key) const;
  void save_values(const std::string& key, std::span<const double> values) const;

 private:
  std::filesystem::path path(const std::string& stage, const std::string& key) const;
  std::filesystem::path folder_;
  mutable std::map<std::filesystem::path, std::future<void>> commits_;
};

// Named values of one context in the cache: what policies find out by trial.
class CachedValues final : public ValueStore {
 public:
  // `identity`: of everything that the values depend on besides what their names say.
  CachedValues(const ArtifactCache& cache, Json identity) : cache_(cache), identity_(std::move(identity)) {}
  std::optional<std::vector<double>> load(std::string_view name) override;
  void save(std::string_view name, std::span<const double> values) override;

 private:
  std::string key(std::string_view name) const;
  const ArtifactCache& cache_;
  Json identity_;
};

}  // namespace grinqh
