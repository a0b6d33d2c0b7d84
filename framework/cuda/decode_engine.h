// Decoding by CUDA graphs: a step is one launch, and the next one's token is there before the host has seen
// it.
#pragma once

#include <string>

#include "cuda/transformer.h"

namespace grinqh::cuda {

// Null, and why, for what graphs do not cover: more sequences than decoding kernels take, older devices,
// layers or policies that ask the host.
std::unique_ptr<Decoder> make_decode_engine(const DeviceTransformer& transformer, LinearExecutor& linears,
                                            const DecodePlan& plan, std::string& why_not);

}  // namespace grinqh::cuda
