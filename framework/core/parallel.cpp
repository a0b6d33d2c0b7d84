#include "core/parallel.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace grinqh {

namespace {

// Set on pool threads, and on the caller while it works on its own tasks: parallel_for inside a task is
// serial.
thread_local bool inside_task = false;

// One parallel_for: threads take the next index until none is left.
struct Job {
  int64_t count;
  const std::function<void(int64_t)>& task;
  std::atomic<int64_t> next = 0;
  std::atomic<bool> failed = false;
  std::exception_ptr first_failure = nullptr;

  void work() {
    for (int64_t i; !failed && (i = next++) < count;) {
      try {
        task(i);
      } catch (...) {
        if (!failed.exchange(true)) first_failure = std::current_exception();
      }
    }
  }
};

class Pool {
 public:
  explicit Pool(int workers) {
    for (int i = 0; i < workers; ++i) threads_.emplace_back([this] { serve(); });
  }
  ~Pool() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    started_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  int workers() const { return static_cast<int>(threads_.size()); }

  void run(Job& job) {
    {
      const std::lock_guard lock(mutex_);
      job_ = &job;
      ++generation_;
      busy_ = workers();
    }
    started_.notify_all();
    inside_task = true;
    job.work();
    inside_task = false;
    std::unique_lock lock(mutex_);
    ended_.wait(lock, [this] { return busy_ == 0; });
  }

 private:
  void serve() {
    inside_task = true;
    uint64_t seen = 0;
    std::unique_lock lock(mutex_);
    while (true) {
      started_.wait(lock, [&] { return stopping_ || generation_ != seen; });
      if (stopping_) return;
      seen = generation_;
      Job& job = *job_;
      lock.unlock();
      job.work();
      lock.lock();
      if (--busy_ == 0) ended_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable started_, ended_;
  Job* job_ = nullptr;
  uint64_t generation_ = 0;
  int busy_ = 0;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

int requested_threads = 0;
std::mutex pool_use;  // one parallel_for at a time
std::unique_ptr<Pool> pool;

}  // namespace

void set_threads(int count) { requested_threads = count; }

int threads() {
  static const int offered = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  return requested_threads > 0 ? requested_threads : offered;
}

void parallel_for(int64_t count, const std::function<void(int64_t)>& task) {
  if (count <= 1 || threads() == 1 || inside_task) {
    for (int64_t i = 0; i < count; ++i) task(i);
    return;
  }
  Job job{count, task};
  {
    const std::lock_guard lock(pool_use);
    if (!pool || pool->workers() != threads() - 1) pool = std::make_unique<Pool>(threads() - 1);
    pool->run(job);
  }
  if (job.first_failure) std::rethrow_exception(job.first_failure);
}

}  // namespace grinqh
