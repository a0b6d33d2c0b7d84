// Statistics of activations on the device: what calib/collectors.cpp is for the CPU. Sums do not depend on
// how tokens are cut into calls beyond the rounding of float64 sums, and not on the GPU. Magnitudes and
// squares keep partial sums in the pool of the stream.
#pragma once

#include "cuda/types.h"

namespace grinqh::cuda {

inline constexpr int kHistogramBins = 128;  // LogHistogram::kBins

// counts(i, bin(|x(t, i)|)) += 1; bins as quant/log_histogram.h. counts: [in, kHistogramBins]
void add_histogram(ConstView x, uint32_t* counts, Stream stream);
// sums(i, bin) += x(t, i). sums: [in, kHistogramBins]
void add_signed_histogram(ConstView x, double* sums, Stream stream);
// sums[i] += sum_t |x(t, i)|; largest[i] = max(largest[i], max_t |x(t, i)|). Either may be null.
void add_magnitudes(ConstView x, double* sums, float* largest, Stream stream);
// sums[i] += sum_t x(t, i)^2.
void add_squares(ConstView x, double* sums, Stream stream);
// sum += part, elementwise. part: f32 [count].
void add_to_double(const float* part, double* sum, int64_t count, Stream stream);
// out = f32(sum * scale); `symmetric`: the upper triangle of sum [n, n] goes to both halves, else count = n *
// n elements as they are.
void scale_to_float(const double* sum, double scale, int64_t n, bool symmetric, float* out, Stream stream);
// sum += (scale * gradient)^2, elementwise: the Fisher diagonal. gradient: f32 [count].
void add_scaled_squares(const float* gradient, float scale, float* sum, int64_t count, Stream stream);

}  // namespace grinqh::cuda
