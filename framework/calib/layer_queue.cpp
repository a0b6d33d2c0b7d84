#include "calib/layer_queue.h"

#include <utility>

#include "core/accelerator.h"

namespace grinqh {

namespace {

constexpr int kThreads = 3;      // each holds a layer's weights in float
constexpr size_t kWaiting = 12;  // less than two blocks, whose statistics are held for them

}  // namespace

LayerQueue::LayerQueue() {
  if (accelerator())
    for (int i = 0; i < kThreads; ++i) threads_.emplace_back([this] { serve(); });
}

LayerQueue::~LayerQueue() {
  {
    const std::lock_guard lock(mutex_);
    waiting_.clear();
    stopping_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void LayerQueue::add(std::function<void()> task) {
  if (threads_.empty()) return task();
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return waiting_.size() < kWaiting || failure_; });
    if (!failure_) waiting_.push_back(std::move(task));
  }
  changed_.notify_all();
}

void LayerQueue::wait() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return waiting_.empty() && running_ == 0; });
  if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
}

void LayerQueue::serve() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return stopping_ || !waiting_.empty(); });
    if (waiting_.empty()) return;
    std::function<void()> task = std::move(waiting_.front());
    waiting_.pop_front();
    const int64_t place = begun_++;
    ++running_;
    lock.unlock();
    std::exception_ptr failure;
    try {
      task();
    } catch (...) {
      failure = std::current_exception();
    }
    task = nullptr;  // what it holds ends before it counts as ended
    lock.lock();
    --running_;
    if (failure && (!failure_ || place < first_failed_)) {
      failure_ = failure;
      first_failed_ = place;
      waiting_.clear();
    }
    changed_.notify_all();
  }
}

}  // namespace grinqh
