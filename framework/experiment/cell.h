// One cell of a sweep: one model, one method, one evaluation, one result file.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "experiment/artifacts.h"
#include "experiment/spec.h"
#include "model/model_text.h"

namespace grinqh {

// A model of the experiment with everything that its cells share.
struct ModelStage {
  // Loads and checks; BadInput for a bad model folder, or a text that is too short for it.
  ModelStage(const ExperimentSpec& spec, const std::filesystem::path& folder);

  // Where the experiment computes; made, and its memory taken, when it is first asked for.
  const Transformer& transformer() const;
  // Gives the device's memory back.
  void release() const { transformer_.reset(); }

  Model model;
  DeviceChoice device;
  std::vector<Windows> windows;             // of every evaluation
  Json calibration_identity;                // what the calibration windows depend on
  std::vector<int32_t> calibration_tokens;  // of the calibration text; empty if it is "self" or not needed

 private:
  mutable std::unique_ptr<Transformer> transformer_;
};

// What results depend on of a device: nothing on the CPU, whose results do not depend on the machine's kind.
void add_device(const DeviceChoice& device, Json& identity);

struct Cell {
  const ModelStage* stage = nullptr;
  const MethodSpec* method = nullptr;
  const EvaluationSpec* evaluation = nullptr;
  const Windows* windows = nullptr;
  int64_t order = 0;  // position in the sweep
  std::string digest;
  std::filesystem::path path;

  std::string name() const;  // "llama-tiny rtn bits=4"
  bool finished() const;     // its file is there, whole, of this digest and without a failure
};

// Digest of everything that the quantized weights of a method depend on.
Json quantization_identity(const ExperimentSpec& spec, const ModelStage& stage, const MethodSpec& method);

// All cells in the order of the sweep: models, methods, evaluations.
std::vector<Cell> make_cells(const ExperimentSpec& spec,
                             const std::vector<std::unique_ptr<ModelStage>>& stages,
                             const std::filesystem::path& folder);

// An experiment of this cell alone, every default written out, as TOML: `grinqh run` of it gives the same
// row.
std::string cell_toml(const ExperimentSpec& spec, const Cell& cell);

}  // namespace grinqh
