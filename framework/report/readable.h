// A report for people, common to the formats made for them: rows grouped by model, the protocol told once,
// columns chosen, digits that mean something.
#pragma once

#include <string>
#include <vector>

#include "report/table.h"

namespace grinqh {

struct ReadableColumn {
  std::string title;
  bool numeric = false;  // to be aligned right
};

struct ReadableGroup {
  std::string title;                            // the model and its perplexity in float
  std::vector<std::vector<std::string>> cells;  // [row][column], one line of text each, not escaped
};

struct ReadableReport {
  std::string protocol;  // what all rows have in common: "dataset held-out, phase decode, ..."; may be empty
  std::vector<ReadableColumn> columns;
  std::vector<ReadableGroup> groups;
};

ReadableReport make_readable(const Table& table);

}  // namespace grinqh
