// Values made on the device are those of the CPU, bit for bit.
#include "cuda/generated_values.h"

#include <gtest/gtest.h>

#include "cuda/gpu.h"
#include "cuda/typed_matrix.h"

namespace grinqh {
namespace {

TEST(GenerateOnGpu, MakesTheBitsOfTheCpu) {
  if (!testing::has_gpu()) GTEST_SKIP() << "no GPU here";
  for (const cuda::Type type : {cuda::Type::f32, cuda::Type::bf16}) {
    const GeneratedValues values{0x123456789abcdefu, 0.03125f};
    const testing::TypedMatrix made(type, 777, 1030);
    cuda::generate(values, made.view(), nullptr);
    const MatrixBuffer<float> found = made.values(),
                              expected = to_float(generated_tensor({777, 1030}, values));
    for (int64_t i = 0; i < found.size(); ++i) ASSERT_EQ(found.data()[i], expected.data()[i]) << i;
  }
}

}  // namespace
}  // namespace grinqh
