#include "calib/layer_queue.h"

#include <gtest/gtest.h>

#include <atomic>
#include <latch>

#include "core/error.h"
#include "idle_accelerator.h"

namespace grinqh {
namespace {

TEST(LayerQueue, RunsTasksAtOnceWithoutAnAccelerator) {
  LayerQueue queue;
  int ran = 0;
  const std::thread::id here = std::this_thread::get_id();
  for (int i = 0; i < 3; ++i)
    queue.add([&, i] {
      EXPECT_EQ(std::this_thread::get_id(), here);
      EXPECT_EQ(ran++, i);
    });
  EXPECT_EQ(ran, 3);
  EXPECT_THROW(queue.add([] { bad_input("this layer"); }), BadInput);
  queue.wait();
}

class WithAccelerator : public ::testing::Test {
 protected:
  AcceleratorScope scope_{std::make_shared<testing::IdleAccelerator>()};
};

TEST_F(WithAccelerator, TasksRunBesideEachOtherAndAreWaitedFor) {
  LayerQueue queue;
  std::latch both(2);  // passes only if two tasks run at a time
  std::atomic<int> ran = 0;
  for (int i = 0; i < 2; ++i)
    queue.add([&] {
      both.arrive_and_wait();
      ++ran;
    });
  for (int i = 0; i < 50; ++i) queue.add([&] { ++ran; });
  queue.wait();
  EXPECT_EQ(ran, 52);
  queue.add([&] { ++ran; });
  queue.wait();
  EXPECT_EQ(ran, 53);
}

TEST_F(WithAccelerator, TheFirstFailureEndsTheQueue) {
  LayerQueue queue;
  std::latch second(1), failed(1);
  std::atomic<int> ran = 0;
  queue.add([&] {
    second.wait();
    bad_input("the first");
  });
  queue.add([&] {
    second.count_down();
    bad_input("the second");
  });
  // One of them may hold the third thread; more than may wait, so that the last can be added only when the
  // queue has failed.
  for (int i = 0; i < 100; ++i)
    queue.add([&] {
      failed.wait();
      ++ran;
    });
  failed.count_down();
  try {
    queue.wait();
    FAIL() << "nothing was thrown";
  } catch (const BadInput& error) {
    EXPECT_STREQ(error.what(), "the first");
  }
  EXPECT_LE(ran, 1);
}

TEST_F(WithAccelerator, WhatHasNotBegunIsDroppedWithTheQueue) {
  std::atomic<int> ran = 0;
  {
    LayerQueue queue;
    std::latch begun(3), go(1);
    for (int i = 0; i < 3; ++i)
      queue.add([&] {
        begun.count_down();
        go.wait();
        ++ran;
      });
    begun.wait();
    for (int i = 0; i < 5; ++i) queue.add([&] { ran += 100; });
    go.count_down();
  }
  EXPECT_GE(ran, 3);
}

}  // namespace
}  // namespace grinqh
