// A method on a small random layer: what its options get wrong together shows before anything is computed.
#pragma once

#include "experiment/spec.h"

namespace grinqh {

// BadInput as the quantizer or the policy throws it, with the place of the method in the file.
void rehearse(const MethodSpec& method);

}  // namespace grinqh
