// What `bench kernels` measured, a row each, and the CSV that carries it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/json.h"

namespace grinqh {

struct KernelRow {
  std::string layout, kernel, device;  // kernel: its name, and after a slash what is special about the layer
  int64_t n = 0, k = 0, batch = 0;     // outputs, inputs, tokens
  double bits = 0;                     // of codes read for a weight and token, on average
  int64_t bytes = 0;                   // that a call must read of weights and their metadata
  double us_median = 0, us_p90 = 0;
  double gbps = 0;        // bytes over the median
  double roof_us = 0;     // of reading as many bytes
  double roof_ratio = 0;  // roof_us over the median
  double error = 0;       // relative, against float64 on the dequantized weights
};

// "layout,kernel,device,N,K,batch,bits,bytes,us_median,us_p90,gbps,roof_us,roof_ratio,error"
const std::string& kernel_csv_header();
std::string to_csv(const KernelRow& row);
Json to_json(const KernelRow& row);
// A line for people, and the line above it.
const std::string& kernel_text_header();
std::string to_text(const KernelRow& row);

// BadInput naming file and line for what `bench kernels` does not write.
std::vector<KernelRow> read_kernel_csv(const std::string& path);

// The parts of a line between commas; no quotes.
std::vector<std::string> split(const std::string& line, char separator = ',');

}  // namespace grinqh
