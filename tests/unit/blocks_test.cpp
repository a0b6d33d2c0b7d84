// Memory of matrices: blocks that are out at the same time do not overlap, and come back whole.
#include "core/blocks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/host_memory.h"
#include "core/plain_vector.h"

namespace grinqh {
namespace {

TEST(Blocks, AreApartAndAligned) {
  struct Taken {
    unsigned char* data;
    size_t bytes;
    unsigned char mark;
  };
  for (int round = 0; round < 3; ++round) {  // blocks of the round before come again
    std::vector<Taken> all;
    for (const size_t bytes : {size_t{0}, size_t{1}, size_t{100}, size_t{4} << 20, (size_t{4} << 20) + 1,
                               size_t{5} << 20, size_t{5} << 20, size_t{33} << 20}) {
      Taken taken{static_cast<unsigned char*>(take_block(bytes)), bytes,
                  static_cast<unsigned char>(all.size() + 10 * static_cast<size_t>(round) + 1)};
      EXPECT_EQ(reinterpret_cast<uintptr_t>(taken.data) % 64, 0u);
      std::fill_n(taken.data, bytes, taken.mark);
      all.push_back(taken);
    }
    for (const Taken& each : all) {
      EXPECT_EQ(std::count(each.data, each.data + each.bytes, each.mark), static_cast<int64_t>(each.bytes));
      give_block(each.data, each.bytes);
    }
  }
  give_block(nullptr, 0);
}

// Blocks that nobody touches cost address space alone.
TEST(Blocks, AreKeptUpToASixteenthOfTheMemory) {
  constexpr size_t kSize = size_t{256} << 20;
  const auto most = static_cast<size_t>(host_memory().total) / 16;
  const size_t before = kept_bytes();
  std::vector<void*> taken;
  for (size_t sum = 0; sum <= most + 2 * kSize; sum += kSize) taken.push_back(take_block(kSize));
  EXPECT_LE(kept_bytes(), before);
  for (void* block : taken) give_block(block, kSize);
  EXPECT_LE(kept_bytes(), most);
#ifndef __SANITIZE_ADDRESS__
  EXPECT_GT(kept_bytes() + kSize, most);
#endif
}

TEST(PlainVectors, AreVectors) {
  PlainVector<float> values(3, 2.0f);
  values.resize(5, 7.0f);
  values.push_back(1.0f);
  EXPECT_EQ(values, (PlainVector<float>{2, 2, 2, 7, 7, 1}));
  PlainVector<float> large(3 << 20);
  large.back() = 4.0f;
  const PlainVector<float> copy = large;
  EXPECT_EQ(copy.back(), 4.0f);
  EXPECT_NE(copy.data(), large.data());
}

TEST(HostMemory, IsThere) {
  const HostMemory memory = host_memory();
  EXPECT_GT(memory.available, 0);
  EXPECT_LE(memory.available, memory.total);
}

}  // namespace
}  // namespace grinqh
