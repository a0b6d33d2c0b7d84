// Cached stages of a sweep: what is stored comes back, and what is damaged is made again.
#include "experiment/artifacts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/registry.h"
#include "core/text.h"
#include "quant/quantizer.h"
#include "runnable_model.h"
#include "support.h"

namespace grinqh {
namespace {

using ::testing::ElementsAre;
using ::testing::SizeIs;
namespace fs = std::filesystem;

// Damages that a reader may meet: nothing, a part, something else, and zeros where structure was.
std::vector<std::string> damages_of(const std::string& bytes) {
  std::string zeros = bytes;
  std::fill_n(zeros.begin(), std::min<size_t>(zeros.size(), 512), '\0');
  return {"", bytes.substr(0, bytes.size() / 2), bytes.substr(0, bytes.size() - 1), "no HDF5", zeros};
}

class Artifacts : public ::testing::Test {
 protected:
  std::vector<fs::path> files() const {
    std::vector<fs::path> found;
    for (const auto& entry : fs::directory_iterator(folder_.path())) found.push_back(entry.path());
    return found;
  }

  testing::TempDir folder_;
  ArtifactCache cache_{folder_.path()};
};

MatrixBuffer<int32_t> counting(int64_t rows, int64_t cols, int32_t first) {
  MatrixBuffer<int32_t> tokens(rows, cols);
  for (int64_t i = 0; i < tokens.size(); ++i) tokens.data()[i] = first + static_cast<int32_t>(i);
  return tokens;
}

std::vector<int32_t> values_of(const MatrixBuffer<int32_t>& tokens) {
  return {tokens.data(), tokens.data() + tokens.size()};
}

TEST_F(Artifacts, WindowsAreMadeOnceForEachKey) {
  int made = 0;
  const auto make = [&](int32_t first) {
    return [&made, first] {
      ++made;
      return counting(2, 3, first);
    };
  };
  EXPECT_THAT(values_of(cache_.windows("a", make(10))), ElementsAre(10, 11, 12, 13, 14, 15));
  const MatrixBuffer<int32_t> again = cache_.windows("a", make(99));
  EXPECT_THAT(values_of(again), ElementsAre(10, 11, 12, 13, 14, 15));
  EXPECT_EQ(again.rows(), 2);
  EXPECT_EQ(again.cols(), 3);
  EXPECT_EQ(made, 1);
  EXPECT_THAT(values_of(cache_.windows("b", make(20))), ElementsAre(20, 21, 22, 23, 24, 25));
  EXPECT_EQ(made, 2);
}

TEST_F(Artifacts, DamagedWindowsAreMadeAgain) {
  cache_.windows("a", [] { return counting(40, 50, 0); });
  ASSERT_THAT(files(), SizeIs(1));
  const fs::path file = files().front();
  const std::string whole = read_file(file.string(), "file");
  int32_t first = 0;
  for (const std::string& damaged : damages_of(whole)) {
    testing::write_file(file, damaged);
    ++first;
    EXPECT_EQ(cache_.windows("a", [&] { return counting(40, 50, first); }).data()[0], first)
        << damaged.size() << " of " << whole.size() << " bytes";
    EXPECT_EQ(cache_.windows("a", [] { return counting(1, 1, -1); }).data()[0], first) << "stored again";
  }
}

TEST_F(Artifacts, CalibrationKeepsQuantizedLayersValuesAndWhatLayersShare) {
  EXPECT_FALSE(cache_.load_calibration("k"));
  const auto shared =
      std::make_shared<LayerStats>(LayerStats{512, {{"histogram", {1.5f, -0.0f, 3e-38f}}, {"mean", {2.0f}}}});
  const auto alone = std::make_shared<LayerStats>(LayerStats{7, {{"mean", {4.0f, 5.0f}}}});
  CachedCalibration saved;
  saved.seconds = 1.25;
  // One layer that shares its input has statistics of its own too.
  const auto own = std::make_shared<LayerStats>(LayerStats{300, {{"gradient", {9.0f}}}});
  const auto both = std::make_shared<LayerStats>(LayerStats{512, {}, {shared, own}});
  saved.calibrated.stats = {{"model.layers.0.self_attn.q_proj", shared},
                            {"model.layers.0.self_attn.k_proj", shared},
                            {"model.layers.0.self_attn.v_proj", both},
                            {"model.layers.0.mlp.down_proj", alone}};
  MatrixBuffer<float> weight(6, 40);
  for (int64_t i = 0; i < weight.size(); ++i) weight.data()[i] = std::sin(static_cast<float>(i));
  const auto quantizer =
      Registry<Quantizer>::get().make("rtn", {{"bits", {3, "test"}}, {"group", {16, "test"}}});
  const std::shared_ptr<const QuantizedLinear> layer = quantizer->quantize({"q", weight.view(), *alone});
  saved.calibrated.model.layers.emplace("model.layers.0.self_attn.q_proj", layer);
  cache_.save_calibration("k", std::make_shared<const CachedCalibration>(saved));

  const auto loaded = cache_.load_calibration("k");
  ASSERT_TRUE(loaded);
  EXPECT_EQ(loaded->seconds, 1.25);
  ASSERT_THAT(loaded->calibrated.stats, SizeIs(4));
  for (const auto& [id, stats] : saved.calibrated.stats) {
    EXPECT_EQ(loaded->calibrated.stats.at(id)->tokens, stats->tokens);
    EXPECT_EQ(loaded->calibrated.stats.at(id)->values, stats->values);
  }
  EXPECT_EQ(loaded->calibrated.stats.at("model.layers.0.self_attn.q_proj"),
            loaded->calibrated.stats.at("model.layers.0.self_attn.k_proj"))
      << "one object for layers that share an input";
  const LayerStats& read_both = *loaded->calibrated.stats.at("model.layers.0.self_attn.v_proj");
  EXPECT_THAT(read_both.parts, ElementsAre(loaded->calibrated.stats.at("model.layers.0.self_attn.q_proj"),
                                           ::testing::Pointee(::testing::Field(&LayerStats::tokens, 300))));
  EXPECT_THAT(read_both.at("gradient"), ElementsAre(9.0f));
  EXPECT_EQ(read_both.at("mean").data(), read_both.parts[0]->values.at("mean").data()) << "not a copy";
  const auto& read = loaded->calibrated.model.layers.at("model.layers.0.self_attn.q_proj");
  EXPECT_EQ(read->layout(), layer->layout());
  EXPECT_EQ(read->attributes(), layer->attributes());
  EXPECT_EQ(copy_buffers(*read), copy_buffers(*layer));
  EXPECT_FALSE(cache_.load_calibration("other"));

  const fs::path file = files().front();
  for (const std::string& damaged : damages_of(read_file(file.string(), "file"))) {
    testing::write_file(file, damaged);
    EXPECT_FALSE(cache_.load_calibration("k")) << damaged.size() << " bytes";
  }
}

TEST_F(Artifacts, FeaturesAreTheFloatModelsWindowByWindow) {
  const testing::TempDir models;
  const Model model = load_model(testing::write_runnable_model(models / "m"));
  const Transformer transformer(model);
  const Windows windows{counting(5, 16, 3), 1};
  FloatLinears linears;
  const MatrixBuffer<float> direct = transformer.run(Batch::of_windows(windows.tokens.view(), 16), linears);

  const auto expect_same = [&](const ReferenceFeatures& features) {
    MatrixBuffer<float> two(2 * 16, transformer.hidden());
    features.read(2, 2, two);
    for (int64_t i = 0; i < two.size(); ++i)
      ASSERT_NEAR(two.data()[i], direct.row(2 * 16)[i], 1e-5) << "element " << i;
  };
  expect_same(*cache_.features("k", transformer, windows));
  ASSERT_THAT(files(), SizeIs(1));
  const fs::path file = files().front();
  const auto written = fs::last_write_time(file);
  expect_same(*cache_.features("k", transformer, windows));
  EXPECT_EQ(fs::last_write_time(file), written) << "not computed again";

  for (const std::string& damaged : damages_of(read_file(file.string(), "file"))) {
    testing::write_file(file, damaged);
    expect_same(*cache_.features("k", transformer, windows));
  }
  // A file of another shape under the same key does not pass either.
  const Windows fewer{counting(2, 16, 3), 1};
  cache_.features("k", transformer, fewer);
  expect_same(*cache_.features("k", transformer, windows));
}

TEST_F(Artifacts, APlaceThatCannotBeWrittenIsTheUsersToMend) {
  testing::write_file(folder_ / "file", "");
  const ArtifactCache blocked(folder_ / "file" / "cache");
  EXPECT_REFUSED(blocked.windows("a", [] { return counting(1, 1, 0); }), (folder_ / "file").string());
}

}  // namespace
}  // namespace grinqh
