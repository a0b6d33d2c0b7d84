// What the commands named bench have in common: lists of numbers and shapes, formats, rows of figures.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "cli/command.h"
#include "core/json.h"

namespace grinqh {

struct ProductShape {
  int64_t out, in;
};

// The words of --option between commas, each a number within [least, most]; refused otherwise.
std::vector<int64_t> integers(const Arguments& arguments, const char* option, int64_t least, int64_t most);
std::vector<double> reals(const Arguments& arguments, const char* option, double least, double most);
// "4096x14336,...": outputs x inputs.
std::vector<ProductShape> shapes(const Arguments& arguments, const char* option, const std::string& text);
// The one number of --option.
int64_t integer(const Arguments& arguments, const char* option, int64_t least, int64_t most);

// Adds --format text|csv|json, and reads it.
void add_format_option(Arguments& arguments);
std::string chosen_format(const Arguments& arguments);

// Rows of the same columns, printed: as csv a head and lines, each as soon as it is measured; as json a list
// and as text aligned columns, both when all are there.
using Figures = std::vector<std::pair<std::string, Json>>;
class FigureRows {
 public:
  explicit FigureRows(std::string format) : format_(std::move(format)) {}
  void add(Figures row);
  void finish() const;

 private:
  std::string format_;
  std::vector<Figures> rows_;
};

}  // namespace grinqh
