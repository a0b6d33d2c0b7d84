#include "model/architecture.h"

#include "core/error.h"

namespace grinqh {

namespace {

// Function-local, so that registration from any translation unit finds it constructed.
std::map<std::string, Architecture, std::less<>>& registered() {
  static std::map<std::string, Architecture, std::less<>> architectures;
  return architectures;
}

}  // namespace

RegisterArchitecture::RegisterArchitecture(std::string_view class_name, Architecture architecture) {
  check(registered().emplace(class_name, std::move(architecture)).second, "architecture registered twice");
}

const std::map<std::string, Architecture, std::less<>>& architectures() { return registered(); }

}  // namespace grinqh
