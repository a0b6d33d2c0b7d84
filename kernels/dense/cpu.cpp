#include "quant/level_gemm.h"

namespace grinqh {
namespace {
const RegisterKernel kernel{
    {"dense16", Device::cpu, "level_gemm", "weights converted to float32", forward_by_levels}};
}
}  // namespace grinqh
