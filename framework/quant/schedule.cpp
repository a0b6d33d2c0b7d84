#include "quant/schedule.h"

namespace grinqh {

double Chain::mean_bits(int64_t first, int64_t end) const {
  double sum = 0;
  for (int64_t index = first; index < end; ++index) sum += at(index);
  return end > first ? sum / static_cast<double>(end - first) : static_cast<double>(at(first));
}

}  // namespace grinqh
