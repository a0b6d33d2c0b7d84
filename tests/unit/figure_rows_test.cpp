// Rows of figures as commands named bench print them: nothing that has been measured waits for what has not.
#include <gtest/gtest.h>

#include "cli/bench_options.h"
#include "core/json.h"

namespace grinqh {
namespace {

const Figures kFirst{{"method", "a, b"}, {"us", 1.5}}, kSecond{{"method", "c"}, {"us", Json()}};

TEST(FigureRows, CsvRowsArePrintedAsTheyCome) {
  FigureRows rows("csv");
  testing::internal::CaptureStdout();
  rows.add(kFirst);
  EXPECT_EQ(testing::internal::GetCapturedStdout(), "method,us\n\"a, b\",1.5\n");
  testing::internal::CaptureStdout();
  rows.add(kSecond);
  EXPECT_EQ(testing::internal::GetCapturedStdout(), "c,\n");
  testing::internal::CaptureStdout();
  rows.finish();
  EXPECT_EQ(testing::internal::GetCapturedStdout(), "");
}

TEST(FigureRows, JsonIsAListOfAll) {
  FigureRows rows("json");
  testing::internal::CaptureStdout();
  rows.add(kFirst);
  rows.add(kSecond);
  EXPECT_EQ(testing::internal::GetCapturedStdout(), "");
  testing::internal::CaptureStdout();
  rows.finish();
  const Json printed = Json::parse(testing::internal::GetCapturedStdout());
  ASSERT_EQ(printed.size(), 2u);
  EXPECT_EQ(printed[0]["method"], "a, b");
  EXPECT_EQ(printed[0]["us"], 1.5);
  EXPECT_TRUE(printed[1]["us"].is_null());
}

TEST(FigureRows, ColumnsOfTextAreAligned) {
  FigureRows rows("text");
  testing::internal::CaptureStdout();
  rows.add(kFirst);
  rows.add(kSecond);
  rows.finish();
  EXPECT_EQ(testing::internal::GetCapturedStdout(), "method   us\n  a, b  1.5\n     c     \n");
}

}  // namespace
}  // namespace grinqh
