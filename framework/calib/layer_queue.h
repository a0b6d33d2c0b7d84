// Layers that are quantized while the calibration goes on: what one does on the host meets what another does
// on an accelerator.
#pragma once

#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace grinqh {

// For one thread that adds tasks. Without an accelerator every task runs when it is added: the host's threads
// share each of them already.
class LayerQueue {
 public:
  LayerQueue();
  ~LayerQueue();  // drops what has not begun
  LayerQueue(const LayerQueue&) = delete;
  LayerQueue& operator=(const LayerQueue&) = delete;

  // Waits while too many wait already. Tasks begin in their order and run beside each other.
  void add(std::function<void()> task);
  // Until all have ended. Of tasks that failed, the first one's exception; those behind it may not have run.
  void wait();

 private:
  void serve();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> waiting_;
  int running_ = 0;
  int64_t begun_ = 0, first_failed_ = -1;  // in the order of adding
  std::exception_ptr failure_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace grinqh
