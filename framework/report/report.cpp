#include "report/report.h"

namespace grinqh {

std::string format_report(std::span<const std::filesystem::path> sources, const std::string& format,
                          const std::string& sort_key) {
  // A wrong name is told before many files are read.
  const std::unique_ptr<ReportFormat> formatter = Registry<ReportFormat>::get().make(format);
  Table table = load_table(find_results(sources));
  sort_rows(table, sort_key);
  return formatter->format(table);
}

}  // namespace grinqh
