// Sensitivities, outliers and nested clusters of a whole matrix, each against its definition.
#include "quant/nested_clusters.h"

#include "core/dtype.h"
#include "model_files.h"
#include "numbers.h"

namespace grinqh {
namespace {

// 19 rows of 90 weights with a Fisher diagonal and second moments.
class ClusteredMatrix : public ::testing::Test {
 protected:
  ClusteredMatrix() {
    PlainVector<float>& fisher = stats_.values["fisher_diagonal"];
    for (const float g : testing::random_vector(kOut * kIn, 2)) fisher.push_back(g * g);
    PlainVector<float>& moments = stats_.values["second_moment"];
    for (const float each : testing::random_vector(kIn * kIn, 3)) moments.push_back(each);
    for (int64_t i = 0; i < kIn; ++i)
      moments[static_cast<size_t>(i * kIn + i)] = 1.0f + static_cast<float>(i);
  }
  LinearTask task() const { return {"model.layers.3.mlp.up_proj", weight_, stats_}; }

  static constexpr int64_t kOut = 19, kIn = 90;
  MatrixBuffer<float> weight_ = testing::random_matrix(kOut, kIn, 1);
  LayerStats stats_;
};

TEST_F(ClusteredMatrix, SensitivitiesAreWhatTheirNamesSay) {
  const Sensitivity fisher("fisher", task()), moment("second_moment", task()), none("none", task());
  for (int64_t row : {0, 7}) {
    ASSERT_EQ(fisher.row(row).size(), static_cast<size_t>(kIn));
    for (size_t i = 0; i < static_cast<size_t>(kIn); ++i) {
      EXPECT_EQ(fisher.row(row)[i], stats_.at("fisher_diagonal")[static_cast<size_t>(row * kIn) + i]);
      EXPECT_EQ(moment.row(row)[i], 1.0f + static_cast<float>(i));
      EXPECT_EQ(none.row(row)[i], 1.0f);
    }
  }
  EXPECT_EQ(Sensitivity::needs("fisher"), CollectorNames{"fisher_diagonal"});
  EXPECT_EQ(Sensitivity::needs("second_moment"), CollectorNames{"second_moment"});
  EXPECT_TRUE(Sensitivity::needs("none").empty());
}

TEST_F(ClusteredMatrix, SensitivitiesThatAreNoneAreRefused) {
  for (const float bad : {-1.0f, NAN, HUGE_VALF}) {
    stats_.values["fisher_diagonal"][40] = bad;
    EXPECT_REFUSED(Sensitivity("fisher", task()), "model.layers.3.mlp.up_proj", "'fisher_diagonal'",
                   "not negative");
  }
  stats_.values["second_moment"][0] = NAN;
  EXPECT_REFUSED(Sensitivity("second_moment", task()), "'second_moment'", "nan");
}

TEST(LargeMatrix, ASensitivityThatIsNoneIsFoundWhereverItStands) {
  const MatrixBuffer<float> weight = MatrixBuffer<float>::zeroed(1100, 2048);  // checked in several tasks
  LayerStats stats;
  for (const size_t at : {size_t{0}, size_t{1} << 20, (size_t{1} << 21) + 5, size_t{1100} * 2048 - 1}) {
    stats.values["fisher_diagonal"].assign(1100 * 2048, 1.0f);
    stats.values["fisher_diagonal"][at] = -1.0f;
    EXPECT_REFUSED(Sensitivity("fisher", {"layer", weight, stats}), "layer", "-1");
  }
}

// Rows are worked on in parts: each must come out as it does alone.
TEST(LargeMatrix, EveryRowIsClusteredByItself) {
  constexpr int64_t kOut = 4200, kIn = 512;  // 2.15 million weights
  const MatrixBuffer<float> weight = testing::random_matrix(kOut, kIn, 4);
  const LayerStats stats;
  const Sensitivity none("none", {"layer", weight, stats});
  const NestedClusters all = cluster_rows("layer", weight, none, {}, 2, 3);
  for (const int64_t row : {int64_t{0}, int64_t{4095}, int64_t{4096}, kOut - 1}) {
    const NestedClusters alone =
        cluster_rows("layer", weight.view().rows_between(row, row + 1), none, {}, 2, 3);
    for (size_t level = 0; level < all.tables.size(); ++level)
      for (int64_t i = 0; i < all.tables[level].cols(); ++i)
        EXPECT_EQ(all.tables[level].row(row)[i], alone.tables[level].row(0)[i]) << row << " " << level;
    for (int64_t i = 0; i < kIn; ++i) EXPECT_EQ(all.codes.row(row)[i], alone.codes.row(0)[i]) << row;
  }
}

TEST_F(ClusteredMatrix, OutliersAreTheMostSensitiveAndOfTheOthersTheLargest) {
  MatrixBuffer<float> weight(2, 4);
  const float values[] = {1, -8, 2, 7, 3, 7, -7, 0}, fisher[] = {1, 9, 1, 1, 1, 1, 1, 8};
  std::copy_n(values, 8, weight.data());
  LayerStats stats;
  stats.values["fisher_diagonal"].assign(fisher, fisher + 8);
  const Sensitivity sensitivity("fisher", {"layer", weight, stats});
  // A quarter of 8 by sensitivity: -8 and 0. Then three eighths by size: 7, 7, -7. Or one eighth: the
  // first 7.
  const Outliers both = select_outliers(weight, sensitivity, {0.25, 0.375});
  EXPECT_EQ(both.row_begin, (std::vector<uint32_t>{0, 2, 5}));
  EXPECT_EQ(both.columns, (std::vector<uint32_t>{1, 3, 1, 2, 3}));
  const Outliers fewer = select_outliers(weight, sensitivity, {0.25, 0.125});
  EXPECT_EQ(fewer.columns, (std::vector<uint32_t>{1, 3, 3}));
  EXPECT_TRUE(select_outliers(weight, sensitivity, {0, 0}).none());
  EXPECT_EQ(select_outliers(weight, sensitivity, {0.5, 0.5}).count(), 8);
}

TEST_F(ClusteredMatrix, EveryEntryIsTheCentroidOfTheWeightsWithItsPrefix) {
  const Sensitivity sensitivity("fisher", task());
  const Outliers outliers = select_outliers(weight_, sensitivity, {0.01, 0.02});
  const NestedClusters clusters = cluster_rows("layer", weight_, sensitivity, outliers, 2, 6);
  ASSERT_EQ(clusters.tables.size(), 5u);
  for (int bits = 2; bits <= 6; ++bits) {
    const MatrixBuffer<uint16_t>& table = clusters.tables[static_cast<size_t>(bits - 2)];
    ASSERT_EQ(table.cols(), 1 << bits);
    for (int64_t row = 0; row < kOut; ++row) {
      std::vector<double> total(size_t{1} << bits), moment(size_t{1} << bits);
      for (int64_t i = 0; i < kIn; ++i) {
        if (std::ranges::count(outliers.of_row(row), static_cast<uint32_t>(i))) continue;
        const auto prefix = static_cast<size_t>(clusters.codes.row(row)[i] >> (6 - bits));
        const double f = sensitivity.row(row)[static_cast<size_t>(i)];
        total[prefix] += f;
        moment[prefix] += f * static_cast<double>(weight_.row(row)[i]);
      }
      float last = -HUGE_VALF;
      for (size_t t = 0; t < total.size(); ++t) {
        const float entry = from_half(table.row(row)[t]);
        EXPECT_GE(entry, last);
        last = entry;
        if (total[t] == 0) continue;
        const double centroid = moment[t] / total[t];
        EXPECT_NEAR(entry, centroid, std::abs(centroid) * 0x1p-11 + 1e-6) << bits << " " << row << " " << t;
      }
    }
  }
}

TEST_F(ClusteredMatrix, AParentsPrefixIsTheCodeOfALowerParent) {
  const Sensitivity sensitivity("fisher", task());
  const NestedClusters eight = cluster_rows("layer", weight_, sensitivity, {}, 3, 8);
  for (int parent = 3; parent < 8; ++parent) {
    const NestedClusters lower = cluster_rows("layer", weight_, sensitivity, {}, 3, parent);
    for (int64_t i = 0; i < weight_.size(); ++i)
      ASSERT_EQ(lower.codes.data()[i], eight.codes.data()[i] >> (8 - parent)) << parent;
    const MatrixBuffer<uint16_t>&a = lower.tables.back(), &b = eight.tables[static_cast<size_t>(parent - 3)];
    EXPECT_TRUE(std::equal(a.data(), a.data() + a.size(), b.data()));
  }
}

TEST_F(ClusteredMatrix, ValuesBeyondFloat16AreRefusedWithTheLayersName) {
  weight_.row(5)[3] = 1e6f;
  const Sensitivity sensitivity("none", task());
  EXPECT_REFUSED(cluster_rows(task().id, weight_, sensitivity, {}, 4, 8), "model.layers.3.mlp.up_proj",
                 "does not fit into float16");
}

}  // namespace
}  // namespace grinqh
