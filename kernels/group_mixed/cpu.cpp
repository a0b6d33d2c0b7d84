#include "quant/level_gemm.h"

namespace grinqh {
namespace {
const RegisterKernel kernel{
    {"group_mixed", Device::cpu, "level_gemm", "weights dequantized, float32", forward_by_levels}};
}
}  // namespace grinqh
