// Runs the cells of an experiment that are not finished yet, sharing stages between them.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "experiment/cell.h"

namespace grinqh {

struct RunOptions {
  std::filesystem::path folder;  // of result files and cached stages
  bool fresh = false;            // computes finished cells again
  bool dry_run = false;          // says what would be computed
  std::string command;           // the command line, for provenance
};

struct RunOutcome {
  std::vector<std::filesystem::path> results;  // of all cells that are finished now, in the sweep's order
  int64_t computed = 0, reused = 0, failed = 0;
};

// A cell that fails is recorded with its error and the others go on; BadInput ends the run, finished cells
// stay. With dry_run the plan goes to standard output.
RunOutcome run_experiment(const ExperimentSpec& spec, const RunOptions& options);

}  // namespace grinqh
