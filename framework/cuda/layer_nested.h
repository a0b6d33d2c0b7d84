// quant/nested_fit.h for the matrices of a layer on the device.
#pragma once

#include "cuda/memory.h"
#include "cuda/nested_fit.h"
#include "cuda/transfers.h"
#include "quant/nested_fit.h"

namespace grinqh::cuda {

// Grids and channels' counts in device memory.
class LayerPrefixes {
 public:
  LayerPrefixes(const NestedGrids& grids, std::span<PrefixSums> sums, Transfers& transfers, Stream stream);

  // Adds what rows of the layer, weight [rows, in], sum up to, from first_row on.
  void add(const float* weight, int64_t first_row, int64_t rows, int64_t in);

 private:
  std::span<PrefixSums> sums_;
  Stream stream_;
  Array<uint16_t> scales_, minima_;
  std::vector<Array<float>> counts_;
  NestedPlaces places_;
  PrefixLevels levels_{};
};

// weight: the task's, on the device.
void find_nested_errors(const NestedErrorTask& task, const float* weight, Transfers& transfers,
                        Stream stream);

// grids: their numbers; scales and minima on the device.
NestedPlaces places_of(const NestedGrids& grids, const uint16_t* scales, const uint16_t* minima);

}  // namespace grinqh::cuda
