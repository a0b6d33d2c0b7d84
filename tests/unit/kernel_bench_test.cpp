// Timing on the CPU: what is measured, not how fast it is.
#include "runtime/kernel_bench.h"

#include <gtest/gtest.h>

#include "quant/bench_layers.h"
#include "quant/product_error.h"
#include "runtime/host_kernel_bench.h"

namespace grinqh {
namespace {

TEST(TimedSamples, QuantilesLieBetweenNeighbours) {
  const TimedSamples samples{{5, 1, 4, 2, 3}};
  EXPECT_DOUBLE_EQ(samples.quantile(0), 1);
  EXPECT_DOUBLE_EQ(samples.quantile(0.5), 3);
  EXPECT_DOUBLE_EQ(samples.quantile(0.9), 4.6);
  EXPECT_DOUBLE_EQ(samples.quantile(1), 5);
  EXPECT_DOUBLE_EQ(TimedSamples{{7}}.quantile(0.9), 7);
}

TEST(HostKernelBench, EveryKernelKeepsToItsStatedErrorOnEveryLayer) {
  const auto bench = make_kernel_bench({});
  int64_t checked = 0;
  for (const BenchLayers& layers : bench_layers())
    for (const BenchedKernelName& name : bench->kernels(layers.layout))
      for (const double bits : layers.bits) {
        SCOPED_TRACE(layers.name() + " " + name.name);
        if (layers.reading == BenchReading::graded && !name.grades) continue;
        const auto layer = layers.make(272, 640, bits, 1);
        const auto kernel = bench->make(layers.layout, name.name, *layer);
        if (kernel == nullptr) continue;
        const MatrixBuffer<float> x = bench_inputs(2, 640, 2);
        BenchTask task{x.view()};
        ChannelGrading grading;
        MatrixBuffer<Level> levels(2, 640);
        if (layers.reading == BenchReading::level) task.level = static_cast<Level>(bits);
        if (layers.reading == BenchReading::graded) {
          grading = bench_grading(x, layers.levels, bits);
          grade_channels(grading, std::vector<Step>(2, Step{Phase::decode}), x, levels);
          task.grading = &grading;
          task.graded = levels.view();
        }
        const MatrixBuffer<double> exact = exact_product(*layer, {task.level, task.graded}, x);
        EXPECT_LE(product_error(kernel->product(task), exact.view()), kernel->tolerance());
        ++checked;
      }
  EXPECT_GT(checked, 0);
}

TEST(HostKernelBench, KnowsTheLastCache) {
  EXPECT_GE(last_cache_bytes(), 1 << 18);
  EXPECT_LE(last_cache_bytes(), int64_t{1} << 32);
}

}  // namespace
}  // namespace grinqh
