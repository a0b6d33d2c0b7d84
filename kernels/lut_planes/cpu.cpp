#include "quant/level_gemm.h"

namespace grinqh {
namespace {
const RegisterKernel kernel{
    {"lut_planes", Device::cpu, "level_gemm", "planes looked up level by level, float32", forward_by_levels}};
}
}  // namespace grinqh
