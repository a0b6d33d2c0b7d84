// quant/nested_clusters.h for the rows of a layer on the device.
#pragma once

#include "cuda/transfers.h"
#include "quant/nested_clusters.h"

namespace grinqh::cuda {

// Rows are taken in slabs, so that memory stays bounded.
void cluster_layer(const ClusterTask& task, Transfers& transfers, Stream stream);

}  // namespace grinqh::cuda
