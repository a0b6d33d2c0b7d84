#include "core/parallel.h"

#include <omp.h>

#include <atomic>
#include <exception>
#include <mutex>

namespace grinqh {

namespace {
int thread_count = 0;
}

void set_threads(int count) { thread_count = count; }

int threads() { return thread_count > 0 ? thread_count : omp_get_num_procs(); }

void parallel_for(int64_t count, const std::function<void(int64_t)>& task) {
  if (count == 1 || threads() == 1 || omp_in_parallel()) {
    for (int64_t i = 0; i < count; ++i) task(i);
    return;
  }
  std::exception_ptr first;
  std::mutex mutex;
  std::atomic<bool> failed = false;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads())
  for (int64_t i = 0; i < count; ++i) {
    if (failed) continue;
    try {
      task(i);
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!failed.exchange(true)) first = std::current_exception();
    }
  }
  if (first) std::rethrow_exception(first);
}

}  // namespace grinqh
