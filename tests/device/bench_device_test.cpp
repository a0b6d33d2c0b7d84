// Timing on the GPU: the kernels on every layer that is measured, and what the figures must hold whatever the
// card.
#include <gtest/gtest.h>

#include <cstring>

#include "device/on_gpu.h"
#include "quant/bench_layers.h"
#include "quant/product_error.h"
#include "runtime/backend.h"
#include "runtime/kernel_bench.h"

namespace grinqh {
namespace {

TEST(DeviceKernelBench, EveryKernelKeepsToItsStatedErrorOnEveryLayer) {
  GRINQH_NEED_GPU();
  const auto bench = make_kernel_bench({Device::cuda});
  int64_t checked = 0;
  for (const BenchLayers& layers : bench_layers())
    for (const BenchedKernelName& name : bench->kernels(layers.layout))
      for (const double bits : layers.bits)
        for (const int64_t tokens : {1, 3}) {
          if (layers.reading == BenchReading::graded && !name.grades) continue;
          SCOPED_TRACE(fmt::format("{} {} at {} bits, {} tokens", layers.name(), name.name, bits, tokens));
          const auto layer = layers.make(1040, 1536, bits, 1);
          const auto kernel = bench->make(layers.layout, name.name, *layer);
          if (kernel == nullptr) continue;
          const MatrixBuffer<float> x = bench_inputs(tokens, 1536, 2);
          BenchTask task{x.view()};
          ChannelGrading grading;
          MatrixBuffer<Level> levels(tokens, 1536);
          if (layers.reading == BenchReading::level) task.level = static_cast<Level>(bits);
          if (layers.reading == BenchReading::graded) {
            grading = bench_grading(x, layers.levels, bits);
            const std::vector<Step> steps(static_cast<size_t>(tokens), Step{Phase::decode});
            grade_channels(grading, steps, x, levels);
            task.grading = &grading;
            task.graded = levels.view();
          }
          const MatrixBuffer<double> exact = exact_product(*layer, {task.level, task.graded}, x);
          const MatrixBuffer<float> y = kernel->product(task);
          EXPECT_LE(product_error(y, exact.view()), kernel->tolerance());
          const MatrixBuffer<float> again = kernel->product(task);
          EXPECT_EQ(std::memcmp(y.data(), again.data(), static_cast<size_t>(y.size()) * sizeof(float)), 0);
          ++checked;
        }
  EXPECT_GT(checked, 0);
}

TEST(DeviceKernelBench, TheRoofGrowsWithTheBytesAndIsOfThisCard) {
  GRINQH_NEED_GPU();
  const auto bench = make_kernel_bench({Device::cuda});
  const double small = bench->roof(1 << 22, 15, false), large = bench->roof(1 << 28, 15, false);
  EXPECT_GT(large, 10 * small);
  EXPECT_LT((1 << 28) / large * 1e-3, 10000);  // GB/s: more would be a cache's
  EXPECT_GT((1 << 28) / large * 1e-3, 100);
  EXPECT_LE(bench->roof(1 << 22, 15, true), 1.05 * small);
}

TEST(DeviceKernelBench, CopiesOfTheWeightsAreReadFromMemory) {
  GRINQH_NEED_GPU();
  const auto bench = make_kernel_bench({Device::cuda});
  for (const BenchLayers& layers : bench_layers()) {
    if (!layers.usual || layers.reading != BenchReading::whole || bench->kernels(layers.layout).empty())
      continue;
    const auto layer = layers.make(4096, 4096, layers.bits[0], 1);
    const auto kernel = bench->make(layers.layout, bench->kernels(layers.layout)[0].name, *layer);
    if (kernel == nullptr) continue;
    const MatrixBuffer<float> x = bench_inputs(1, 4096, 2);
    BenchTask task{x.view()};
    task.counts = LevelCounts::uniform(layer->full_level(), 4096);
    const TimedSamples samples = kernel->time(task, 15);
    EXPECT_EQ(samples.microseconds.size(), 15u);
    // Reading alone, all of the launch overlapped, is the least that it can take.
    const double least = bench->roof(kernel->bytes_read(task.counts), 15, true);
    EXPECT_GT(samples.quantile(0.5), 0.9 * least) << layers.name();
  }
}

TEST(DeviceKernelBench, TheBackendTellsItsPeakOfMemory) {
  GRINQH_NEED_GPU();
  const DeviceChoice device{Device::cuda};
  const auto bench = make_kernel_bench(device);
  bench->roof(1 << 26, 15, false);
  EXPECT_GE(backend_of(Device::cuda).peak_bytes(device), 1 << 26);
  EXPECT_GT(bench->library_product(64, 1024, 1024), 0);
}

}  // namespace
}  // namespace grinqh
