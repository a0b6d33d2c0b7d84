#include "quant/sensitivity.h"

#include <algorithm>
#include <cmath>

#include "core/parallel.h"

namespace grinqh {

namespace {

constexpr const char* kFisher = "fisher_diagonal";
constexpr const char* kSecondMoment = "second_moment";

void check_values(std::span<const float> values, const std::string& layer, const char* statistic) {
  constexpr size_t kTask = 1 << 20;
  parallel_for(static_cast<int64_t>((values.size() + kTask - 1) / kTask), [&](int64_t task) {
    const size_t begin = static_cast<size_t>(task) * kTask;
    for (const float value : values.subspan(begin, std::min(kTask, values.size() - begin)))
      if (!std::isfinite(value) || value < 0)
        bad_input("{}: statistic '{}' has a sensitivity of {}; it is finite and not negative", layer,
                  statistic, value);
  });
}

}  // namespace

CollectorNames Sensitivity::needs(const std::string& kind) {
  if (kind == "fisher") return {kFisher};
  if (kind == "second_moment") return {kSecondMoment};
  return {};
}

Sensitivity::Sensitivity(const std::string& kind, const LinearTask& task) {
  const int64_t out = task.weight.rows, in = task.weight.cols;
  if (kind == "fisher") {
    const std::span<const float> values = task.stats.at(kFisher);
    check(values.size() == static_cast<size_t>(out * in), "fisher_diagonal: [out, in]");
    check_values(values, task.id, kFisher);
    by_weight_ = {values.data(), out, in};
  } else if (kind == "second_moment") {
    const std::span<const float> values = task.stats.at(kSecondMoment);
    check(values.size() == static_cast<size_t>(in * in), "second_moment: [in, in]");
    for (int64_t i = 0; i < in; ++i) shared_.push_back(values[static_cast<size_t>(i * in + i)]);
    check_values(shared_, task.id, kSecondMoment);
  } else {
    shared_.assign(static_cast<size_t>(in), 1.0f);
  }
}

Matrix<const float> Sensitivity::rows(int64_t rows) const {
  if (by_weight_.empty()) return {shared_.data(), rows, std::ssize(shared_), 0};
  return by_weight_.rows_between(0, rows);
}

std::span<const float> Sensitivity::row(int64_t row) const {
  return by_weight_.empty() ? std::span<const float>(shared_) : by_weight_.row_span(row);
}

}  // namespace grinqh
