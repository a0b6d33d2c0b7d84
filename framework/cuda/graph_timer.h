// Time of calls as decoding makes them: captured in a graph, one after the other on one stream.
#pragma once

#include <functional>
#include <vector>

#include "cuda/types.h"

namespace grinqh::cuda {

// Microseconds a call of call(0), ..., call(calls - 1), which only launch: what lies between two of them
// counts. One value a replay of the graph, after three that do not count.
std::vector<double> time_in_graph(int64_t calls, const std::function<void(int64_t)>& call, int repetitions,
                                  Stream stream);

// So many calls that `copies` of what each reads are gone through whole times, and long enough for what a
// graph's start takes not to matter.
int64_t calls_in_graph(int64_t copies, int64_t bytes);

// Copies of something of which `bytes` are read that no cache can hold.
int64_t copies_beyond_caches(int64_t bytes);

}  // namespace grinqh::cuda
