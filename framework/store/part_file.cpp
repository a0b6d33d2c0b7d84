#include "store/part_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/error.h"

namespace grinqh {

namespace {

class Descriptor {
 public:
  Descriptor(const std::filesystem::path& path, int flags)
      : fd_(::open(path.c_str(), flags | O_CLOEXEC, 0666)) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }

 private:
  int fd_;
};

[[noreturn]] void fail_with_errno(const std::filesystem::path& path, const char* action) {
  fail("{}: cannot {}: {}", path.string(), action, std::strerror(errno));
}

void sync(const std::filesystem::path& path, int flags) {
  const Descriptor file(path, flags);
  if (!file.valid() || ::fsync(file.get()) != 0) fail_with_errno(path, "put it on the disk");
}

std::filesystem::path folder_of(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
}

}  // namespace

PartFile::PartFile(std::filesystem::path target) : target_(std::move(target)), part_(target_) {
  part_ += ".part";
  std::error_code code;
  std::filesystem::create_directories(folder_of(target_), code);
  if (code) bad_input("{}: cannot create the folder: {}", folder_of(target_).string(), code.message());
  if (std::filesystem::is_directory(target_, code))
    bad_input("{}: is a directory, expected a file to write", target_.string());
  const Descriptor file(part_, O_WRONLY | O_CREAT | O_TRUNC);
  if (!file.valid()) bad_input("{}: cannot write: {}", part_.string(), std::strerror(errno));
}

PartFile::~PartFile() {
  std::error_code ignored;
  if (!committed_) std::filesystem::remove(part_, ignored);
}

void PartFile::write(std::span<const std::byte> bytes) {
  std::error_code code;
  std::filesystem::resize_file(part_, 0, code);
  if (code) fail("{}: cannot empty it: {}", part_.string(), code.message());
  write_at(0, bytes);
}

void PartFile::write_at(int64_t place, std::span<const std::byte> bytes) {
  const Descriptor file(part_, O_WRONLY);
  if (!file.valid()) fail_with_errno(part_, "write");
  while (!bytes.empty()) {
    const ssize_t written = ::pwrite(file.get(), bytes.data(), bytes.size(), place);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail_with_errno(part_, "write");
    bytes = bytes.subspan(static_cast<size_t>(written));
    place += written;
  }
}

void PartFile::commit() {
  check(!committed_, "a file is committed once");
  sync(part_, O_RDONLY);
  std::error_code code;
  std::filesystem::rename(part_, target_, code);
  if (code) fail("{}: cannot rename it to {}: {}", part_.string(), target_.string(), code.message());
  committed_ = true;
  sync(folder_of(target_), O_RDONLY | O_DIRECTORY);  // the new name itself
}

}  // namespace grinqh
