// What calibration takes of a device's memory, counted by hand, and how it is refused.
#include "calib/memory_plan.h"

#include <gtest/gtest.h>

#include "model/synthetic.h"
#include "model_files.h"

namespace grinqh {
namespace {

ModelConfig config() {
  ModelConfig c;
  c.architecture = "LlamaForCausalLM";
  c.vocab = 100;
  c.hidden = 64;
  c.intermediate = 160;
  c.layers = 3;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = 16;
  return c;
}

struct PlannedMemory : ::testing::Test {
  const Model model = make_synthetic(config(), "three blocks");
  CalibrationSize size{1000, 100, 50, {}, 2};
  // Of a token: two rows of the stream; q, k, v and the mix, two of gate and up, and two of the norm's.
  static constexpr int64_t kToken = 2 * 64 * 4 + 2 * (2 * 64 + 2 * (4 + 2) * 16 + 2 * 160);
};

TEST_F(PlannedMemory, IsThatOfOneBlockAndTheStream) {
  size.names = {"second_moment"};
  const CalibrationMemory memory = calibration_memory(model, size);
  EXPECT_EQ(memory.stream, 1000 * 64 * 4);
  EXPECT_EQ(memory.statistics, 12 * (3 * 64 * 64 + 160 * 160)) << "four inputs";
  EXPECT_EQ(memory.solving, 12 * 160 * 160);
  EXPECT_EQ(memory.activations, 100 * kToken * 3 / 2);
  EXPECT_EQ(memory.gradients, 0);
  EXPECT_EQ(memory.most(), memory.stream + memory.activations + memory.statistics);
  size.names = {"second_moment", "input_drift"};
  EXPECT_EQ(calibration_memory(model, size).stream, 2 * 1000 * 64 * 4);
  EXPECT_EQ(calibration_memory(model, size).statistics, 2 * memory.statistics);
  size.names = {"magnitude_histogram"};
  EXPECT_EQ(calibration_memory(model, size).statistics, 4 * 128 * (3 * 64 + 160));
  EXPECT_EQ(calibration_memory(model, size).solving, 0);
}

TEST_F(PlannedMemory, OfGradientsIsThatOfAllWeights) {
  size.names = {"output_gradient"};
  const CalibrationMemory without = calibration_memory(model, size);
  EXPECT_EQ(without.stream, 0);
  EXPECT_EQ(without.gradients, 50 * (3 * 64 * 4 + 3 * kToken) + 50 * 100 * (4 + 2));
  size.names = {"fisher_diagonal"};
  const int64_t weights = 3 * (64 * (64 + 2 * 32 + 64) + 3 * 64 * 160);
  EXPECT_EQ(calibration_memory(model, size).gradients - without.gradients, 4 * (weights + 64 * 160));
}

TEST_F(PlannedMemory, IsRefusedWithWhatIsNeededAndWhatThereIs) {
  const int64_t gib = int64_t{1} << 30;
  const CalibrationMemory walk{3 * gib, 2 * gib, gib, gib, 0}, backward{gib, 0, 0, 0, 30 * gib};
  EXPECT_NO_THROW(require_memory("m", walk, {6 * gib, 8 * gib}));
  EXPECT_REFUSED(require_memory("m", walk, {6 * gib - 1, 8 * gib}), "m: calibration does not fit",
                 "3.00 GiB for the tokens' residual stream, 1.00 for a batch and 2.00 for statistics",
                 "6.00 of 8.00 GiB are free");
  EXPECT_REFUSED(require_memory("m", backward, {20 * gib, 80 * gib}), "backward pass", "30.00 GiB are needed",
                 "20.00 of 80.00 GiB are free");
}

}  // namespace
}  // namespace grinqh
