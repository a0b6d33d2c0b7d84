#include "core/parallel.h"

#include <gtest/gtest.h>

#include <atomic>
#include <vector>

#include "core/error.h"
#include "numbers.h"

namespace grinqh {
namespace {

TEST(Parallel, RunsEveryTaskOnce) {
  for (const int count : {1, 2, 5}) {
    const testing::Threads threads(count);
    EXPECT_EQ(grinqh::threads(), count);
    for (const int64_t tasks : {0, 1, 2, 1000}) {
      std::vector<std::atomic<int>> runs(static_cast<size_t>(tasks));
      parallel_for(tasks, [&](int64_t i) { ++runs[static_cast<size_t>(i)]; });
      for (const auto& each : runs) EXPECT_EQ(each, 1);
    }
  }
}

TEST(Parallel, RunsInsideOneOfItsTasks) {
  const testing::Threads threads(3);
  std::vector<std::atomic<int>> runs(30);
  parallel_for(3, [&](int64_t outer) {
    parallel_for(10, [&](int64_t inner) { ++runs[static_cast<size_t>(10 * outer + inner)]; });
  });
  for (const auto& each : runs) EXPECT_EQ(each, 1);
}

TEST(Parallel, HandsOnWhatATaskThrows) {
  for (const int count : {1, 3}) {
    const testing::Threads threads(count);
    const auto run = [] {
      parallel_for(100, [](int64_t i) {
        if (i == 37) bad_input("task {}", i);
      });
    };
    try {
      run();
      FAIL() << "nothing was thrown";
    } catch (const BadInput& error) {
      EXPECT_STREQ(error.what(), "task 37");
    }
    std::atomic<int> after = 0;
    parallel_for(10, [&](int64_t) { ++after; });
    EXPECT_EQ(after, 10);
  }
}

TEST(Parallel, TakesWhatTheMachineOffersByDefault) {
  set_threads(0);
  EXPECT_GE(threads(), 1);
}

}  // namespace
}  // namespace grinqh
