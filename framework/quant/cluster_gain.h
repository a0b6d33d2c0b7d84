// What both the CPU's and the device's clustering maximize, so that they cut alike.
#pragma once

#include "core/host_device.h"

namespace grinqh {

// By how much the weighted squared error of a row falls if the places [begin, end) become a cluster. Prefix
// sums [size + 1]: of the weights, and of weight times distance from the row's mean.
GRINQH_BOTH inline double cluster_gain(const double* weight_sum, const double* moment_sum, int begin,
                                       int end) {
  const double w = weight_sum[end] - weight_sum[begin], wv = moment_sum[end] - moment_sum[begin];
  return w > 0 ? wv * wv / w : 0.0;
}

}  // namespace grinqh
