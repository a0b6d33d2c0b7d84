#include "quant/level_gemm.h"

namespace grinqh {
namespace {
const RegisterKernel kernel{
    {"nested", Device::cpu, "level_gemm", "planes dequantized level by level, float32", forward_by_levels}};
}
}  // namespace grinqh
