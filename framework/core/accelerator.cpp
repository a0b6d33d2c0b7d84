#include "core/accelerator.h"

#include <mutex>
#include <utility>

namespace grinqh {

namespace {

struct Installed {
  std::mutex mutex;
  std::shared_ptr<Accelerator> accelerator;
};

Installed& installed() {
  static Installed one;
  return one;
}

}  // namespace

std::shared_ptr<Accelerator> accelerator() {
  const std::lock_guard lock(installed().mutex);
  return installed().accelerator;
}

std::shared_ptr<Accelerator> set_accelerator(std::shared_ptr<Accelerator> next) {
  const std::lock_guard lock(installed().mutex);
  return std::exchange(installed().accelerator, std::move(next));
}

}  // namespace grinqh
