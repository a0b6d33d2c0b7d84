// Which bits are read when. Any policy runs on any layout whose levels cover what it asks for.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/matrix.h"
#include "core/registry.h"
#include "quant/channel_grading.h"
#include "quant/precision.h"
#include "quant/quantized_linear.h"
#include "quant/quantizer.h"
#include "quant/schedule.h"

namespace grinqh {

// One decoder block on calibration tokens under a policy's decisions as they are at the call.
class BlockTrial {
 public:
  virtual ~BlockTrial() = default;
  // Ids of the block's quantized layers, in the order in which they run.
  virtual const std::vector<std::string>& layers() const = 0;
  // ||y - y_float||^2 / ||y_float - x||^2 of the block's outputs y for the float model's inputs x.
  virtual double error() = 0;
};

class PrecisionPolicy {
 public:
  static constexpr std::string_view kind = "policy";
  virtual ~PrecisionPolicy() = default;
  virtual CollectorNames needs() const { return {}; }

  // Called once for every quantized layer, before the first token. BadInput if the layer's levels do not
  // cover what the policy asks for.
  virtual void prepare(const LinearTask& task, const QuantizedLinear& quantized) = 0;

  // Once, when every layer is prepared: a budget for all layers is divided here.
  virtual void allot() {}
  // A policy that looks for its decisions by trying them gets every block in turn, after allot().
  virtual bool tunes() const { return false; }
  virtual void tune(BlockTrial& trial) { (void)trial; }

  // A policy whose levels depend on a sequence's past makes a schedule for every sequence, when its prompt
  // has been processed; what the schedule decides comes back as Step::scheduled.
  virtual ScheduleInput schedule_input() const { return ScheduleInput::nothing; }
  virtual std::unique_ptr<SequenceSchedule> schedule(const Prompt& prompt) const {
    (void)prompt;
    return nullptr;
  }
  // A policy that finds its schedule by trial continues windows of a validation text, after tune().
  virtual ValidationText validation() const { return {}; }
  virtual void plan(ScheduleTrial& trial) { (void)trial; }
  // What was decided from data, for the record; null: nothing.
  virtual Json findings() const { return nullptr; }

  // How one layer's channels are graded; null for a policy that chooses by itself. What is pointed to stays
  // as it is until the next call of prepare(), allot() or tune().
  virtual const ChannelGrading* grading(const std::string& layer) const {
    (void)layer;
    return nullptr;
  }
  // The same for policies that grade a token as its step says: all gradings that tokens of the layer may get,
  // and which of them a token of this step gets. None: the policy chooses by itself.
  virtual std::vector<const ChannelGrading*> gradings(const std::string& layer) const;
  virtual const ChannelGrading* grading_of(const std::string& layer, const Step& step) const {
    (void)step;
    return grading(layer);
  }
  // Levels for a batch of decoded tokens at the inputs of one layer. x: [tokens, in], steps: [tokens]. A
  // policy that grades channels fills `scratch` [tokens, in] and returns a view of it; one that does not
  // leaves it be. By default what grading() says.
  virtual Precision choose(const std::string& layer, std::span<const Step> steps, Matrix<const float> x,
                           Matrix<Level> scratch) const;
  // Whether choose() looks at x: a device that keeps x to itself must fetch it for a policy that does.
  virtual bool looks_at_inputs() const { return true; }

  // Constants [out] that decoded tokens add to the layer's outputs, stored as float16; empty: none.
  virtual std::span<const float> offset(const std::string& layer) const {
    (void)layer;
    return {};
  }
};

}  // namespace grinqh
