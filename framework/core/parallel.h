// Data parallelism over a fixed list of tasks. What a task computes must not depend on the number of threads:
// then neither does any result (callers cut work into tasks by shape alone).
#pragma once

#include <cstdint>
#include <functional>

namespace grinqh {

// Threads for everything that follows; 0 takes what the machine offers. Not to be called inside a task.
void set_threads(int count);
int threads();

// Runs task(i) for i in [0, count), in any order. The first exception is rethrown here after all have ended.
void parallel_for(int64_t count, const std::function<void(int64_t)>& task);

}  // namespace grinqh
