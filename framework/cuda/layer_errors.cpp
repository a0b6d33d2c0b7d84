#include "cuda/layer_errors.h"

#include "core/error.h"
#include "cuda/column_errors.h"
#include "cuda/device_weights.h"
#include "cuda/memory.h"

namespace grinqh::cuda {

void find_level_errors(const LevelTask& task, const float* weight, Transfers& transfers, Stream stream) {
  const int64_t rows = task.weight.rows, in = task.weight.cols;
  check(task.errors.rows == std::ssize(task.levels) && task.errors.cols == in, "level errors: shapes");
  const auto quantized = upload(task.quantized, stream);
  const Array<float> decoded(rows * in, stream);
  const Array<float> counts(std::ssize(task.row_weights), stream);
  transfers.upload(Matrix<const float>(task.row_weights.data(), 1, std::ssize(task.row_weights)),
                   counts.data(), stream);
  const Array<double> errors(task.errors.rows * in, stream), partial(column_error_scratch(rows, in), stream);
  for (int64_t k = 0; k < task.errors.rows; ++k) {
    const Level level = task.levels[static_cast<size_t>(k)];
    if (level > 0) quantized->dequantize(level, 0, {decoded.data(), rows, in, in, Type::f32}, stream);
    column_errors({weight, level > 0 ? decoded.data() : nullptr,
                   task.row_weights.empty() ? nullptr : counts.data(), rows, in},
                  partial.data(), errors.data() + k * in, stream);
  }
  transfers.download(errors.data(), task.errors, stream);
}

}  // namespace grinqh::cuda
