// One HDF5 file for each cell of a sweep (results/SCHEMA.md describes it). A seal in front of the HDF5 part,
// its length and digest, tells a damaged file from a whole one before anything in it is believed.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/metric_sink.h"
#include "store/hdf5.h"
#include "store/part_file.h"

namespace grinqh {

inline constexpr int64_t kResultSchema = 1;

// Collects in memory and writes all at once on commit(), so a killed run leaves at most an empty NAME.part.
// Every name is written once, and the report's own columns (store/columns.h) with their own kind.
class ResultWriter : public MetricSink {
 public:
  // `digest` identifies the cell: what a resumed sweep compares. BadInput if the place cannot be written.
  ResultWriter(const std::filesystem::path& path, std::string_view digest);

  // Columns of the report row; names that are no column of the contract become extra columns.
  void text(std::string_view column, std::string_view value);
  void integer(std::string_view column, int64_t value) override;
  void scalar(std::string_view column, double value, std::string_view unit) override;

  void series(std::string_view name, std::span<const double> values, std::string_view unit) override;
  void provenance(std::string_view key, std::string_view value);

  void commit();  // the last call

 private:
  std::filesystem::path path_;
  PartFile file_;
  hdf5::File image_;
  std::set<std::string, std::less<>> written_;  // "/row/model"

  std::string claim(std::string_view group, std::string_view name);
};

struct Scalar {
  double value = 0;
  std::string unit;
};

template <class T>
using ByName = std::map<std::string, T, std::less<>>;

struct Result {
  std::filesystem::path path;
  std::string digest;
  ByName<std::string> texts;  // the row: texts, integers and scalars
  ByName<int64_t> integers;
  ByName<Scalar> scalars;
  ByName<std::string> provenance;
  std::vector<std::string> series;  // names, sorted
};

struct Series {
  std::vector<double> values;
  std::string unit;
};

// BadInput names the file that is missing, damaged, truncated or no result.
Result read_result(const std::filesystem::path& path);
Series read_series(const std::filesystem::path& path, std::string_view name);

}  // namespace grinqh
