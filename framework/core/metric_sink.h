// Where evaluators write what they measured, whatever keeps it: a result file, a table in memory.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace grinqh {

class MetricSink {
 public:
  virtual ~MetricSink() = default;

  // One number of the whole evaluation. `unit` as results/SCHEMA.md writes them: "nat", "bit", "s", "1".
  virtual void scalar(std::string_view name, double value, std::string_view unit) = 0;
  virtual void integer(std::string_view name, int64_t value) = 0;
  // One number a window, token, block...; the name says which ("window_nll", "token_kl").
  virtual void series(std::string_view name, std::span<const double> values, std::string_view unit) = 0;
};

}  // namespace grinqh
