// Results on disk to a report in a named format. Reads result files only; nothing of the run is needed.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "core/registry.h"
#include "report/table.h"

namespace grinqh {

// A format registers itself (Register<ReportFormat, Markdown>) and is one file.
class ReportFormat {
 public:
  static constexpr std::string_view kind = "report format";
  struct Options {
    template <class V>
    void fields(V&) {}
  };
  virtual ~ReportFormat() = default;
  virtual std::string format(const Table& table) const = 0;
};

// `sources`: result files, and folders that are searched for them; see find_results. An empty `sort_key`
// means by model, quantizer and position in the sweep.
std::string format_report(std::span<const std::filesystem::path> sources, const std::string& format,
                          const std::string& sort_key);

}  // namespace grinqh
