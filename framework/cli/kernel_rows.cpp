#include "cli/kernel_rows.h"

#include <charconv>
#include <sstream>

#include "core/error.h"
#include "core/text.h"

namespace grinqh {

std::vector<std::string> split(const std::string& line, char separator) {
  std::vector<std::string> parts(1);
  for (const char c : line)
    if (c == separator)
      parts.emplace_back();
    else
      parts.back() += c;
  return parts;
}

const std::string& kernel_csv_header() {
  static const std::string header =
      "layout,kernel,device,N,K,batch,bits,bytes,us_median,us_p90,gbps,roof_us,roof_ratio,error";
  return header;
}

std::string to_csv(const KernelRow& row) {
  return fmt::format("{},{},{},{},{},{},{:.6g},{},{:.4f},{:.4f},{:.1f},{:.4f},{:.4f},{:.3e}", row.layout,
                     row.kernel, row.device, row.n, row.k, row.batch, row.bits, row.bytes, row.us_median,
                     row.us_p90, row.gbps, row.roof_us, row.roof_ratio, row.error);
}

Json to_json(const KernelRow& row) {
  return {{"layout", row.layout},
          {"kernel", row.kernel},
          {"device", row.device},
          {"N", row.n},
          {"K", row.k},
          {"batch", row.batch},
          {"bits", row.bits},
          {"bytes", row.bytes},
          {"us_median", row.us_median},
          {"us_p90", row.us_p90},
          {"gbps", row.gbps},
          {"roof_us", row.roof_us},
          {"roof_ratio", row.roof_ratio},
          {"error", row.error}};
}

const std::string& kernel_text_header() {
  static const std::string header =
      fmt::format("{:32} {:>14} {:>5} {:>7} {:>10} {:>9} {:>9} {:>8} {:>9} {:>6} {:>8}", "kernel", "N x K",
                  "batch", "bits", "bytes", "us", "p90", "GB/s", "roof us", "ratio", "error");
  return header;
}

std::string to_text(const KernelRow& row) {
  return fmt::format(
      "{:32} {:>14} {:>5} {:>7.4g} {:>10} {:>9.2f} {:>9.2f} {:>8.0f} {:>9.2f} {:>6.3f} {:>8.1e}",
      row.layout + "/" + row.kernel, fmt::format("{}x{}", row.n, row.k), row.batch, row.bits, row.bytes,
      row.us_median, row.us_p90, row.gbps, row.roof_us, row.roof_ratio, row.error);
}

namespace {

template <class T>
void parse(const std::string& text, T& value, const std::string& where, const std::string& column) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size())
    bad_input("{}: column '{}' is '{}', which is no number", where, column, text);
}

}  // namespace

std::vector<KernelRow> read_kernel_csv(const std::string& path) {
  std::istringstream lines(read_file(path, "kernel timings"));
  std::string line;
  std::getline(lines, line);
  if (line != kernel_csv_header())
    bad_input("{}:1: the columns are '{}', those of bench kernels are '{}'", path, line, kernel_csv_header());
  const std::vector<std::string> columns = split(line);
  std::vector<KernelRow> rows;
  for (int number = 2; std::getline(lines, line); ++number) {
    const std::string where = fmt::format("{}:{}", path, number);
    const std::vector<std::string> parts = split(line);
    if (parts.size() != columns.size())
      bad_input("{}: {} columns, bench kernels writes {}", where, parts.size(), columns.size());
    KernelRow row{parts[0], parts[1], parts[2]};
    size_t next = 3;
    const auto read = [&](auto& value) {
      parse(parts[next], value, where, columns[next]);
      ++next;
    };
    read(row.n), read(row.k), read(row.batch), read(row.bits), read(row.bytes), read(row.us_median);
    read(row.us_p90), read(row.gbps), read(row.roof_us), read(row.roof_ratio), read(row.error);
    rows.push_back(row);
  }
  if (rows.empty()) bad_input("{}: no timings in it", path);
  return rows;
}

}  // namespace grinqh
