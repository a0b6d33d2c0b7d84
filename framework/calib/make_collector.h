// The collectors of a calibration pass, for activations where a transformer keeps them.
#pragma once

#include "core/registry.h"
#include "quant/gradient_collector.h"
#include "quant/stats.h"
#include "runtime/device_collectors.h"
#include "runtime/transformer.h"

namespace grinqh {

// By name. Where the transformer's device brings none of that name, activations are fetched for the CPU's.
// BadInput for a name that no collector has. The transformer outlives the collector.
std::unique_ptr<Collector> make_collector(const std::string& name, const Transformer& transformer);
std::unique_ptr<DriftCollector> make_drift_collector(const std::string& name, const Transformer& transformer);
std::unique_ptr<GradientCollector> make_gradient_collector(const std::string& name,
                                                           const Transformer& transformer);

}  // namespace grinqh
