// What an experiment file asks for, checked and expanded: every method of the sweep with all its options.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "calib/calibrate.h"
#include "core/device.h"
#include "core/options.h"
#include "experiment/config_table.h"

namespace grinqh {

struct PluginSpec {
  std::string name;
  Settings settings;       // as given
  Json options;            // all of them, defaults filled in
  std::string where = {};  // its place in the file, for messages
};

// One point of the sweep.
struct MethodSpec {
  PluginSpec quantizer, policy;
  std::vector<std::string> layers = {"*"};  // patterns of layer ids
  Level prefill_level = kFullLevel;
  std::string label;                        // what the user set, shortly: "bits=4 group=128"
  std::string where;                        // the quantizer's place in the file, for messages
  std::vector<PluginSpec> transforms = {};  // of the model, in order, before anything else

  bool calibrates() const;  // whether transforms, quantizer or policy look at calibration windows
};

struct CalibrationSpec {
  std::string text = "self";  // a path, or "self": drawn from the model
  int64_t windows = 128;
  int64_t context = 1024;
  CalibrationInputs inputs = CalibrationInputs::quantized;
  int64_t gradient_windows = 100;  // statistics of gradients are of this many of the windows,
  int64_t gradient_context = 512;  // cut to so many tokens
};

enum class EvaluationPhase : uint8_t { prefill, decode, continuation };

struct EvaluationSpec {
  PluginSpec evaluator;
  std::filesystem::path text;
  std::string protocol = "windows";
  int64_t context = 1024;
  EvaluationPhase phase = EvaluationPhase::decode;
  int64_t prefill_tokens = 0;  // of each window, in phase continuation
  bool reference = false;      // compare with the float model

  // Tokens of a window that count as prompt.
  int64_t prompt_tokens() const;
};
std::string_view to_string(EvaluationPhase phase);

struct ExperimentSpec {
  std::string title;
  int64_t seed = 0;
  DeviceChoice device;
  std::vector<std::filesystem::path> models;
  CalibrationSpec calibration;
  std::vector<MethodSpec> methods;
  std::vector<EvaluationSpec> evaluations;
};

// Strict: an unknown key, a wrong type, a value out of range or an unknown name is BadInput naming file, line
// and key. Relative paths are looked up from the working directory, then from the file's folder.
ExperimentSpec read_experiment(const ConfigTable& config, const std::filesystem::path& folder);

// Methods of one [[methods]] table: a list where an option takes a scalar, or a list of lists where it takes
// a list, is an axis of the sweep. Axes vary in the order of the file, the last fastest.
std::vector<MethodSpec> expand_methods(const ConfigTable& table);

}  // namespace grinqh
