#include "system/shared_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <string>
#include <string_view>
#include <utility>

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

bool is_such_a_memfd(int file, std::size_t size) noexcept {
  struct ::stat status {};
  return ::fstat(file, &status) == 0 && S_ISREG(status.st_mode) && status.st_uid == ::geteuid() &&
         status.st_size == static_cast<off_t>(size) &&
         (::fcntl(file, F_GET_SEALS) & F_SEAL_SHRINK) != 0;
}

}  // namespace

SharedMemory SharedMemory::make(const char* name, std::size_t size) noexcept {
  SharedMemory made;
  const int file = ::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (file < 0) return made;
  made.file_ = file;
  if (::ftruncate(file, static_cast<off_t>(size)) == 0 && ::fcntl(file, F_ADD_SEALS, kSeals) == 0) {
    made.map(file, size);
  }
  return made ? std::move(made) : SharedMemory();
}

SharedMemory SharedMemory::of_process(pid_t process, int file, const char* name, std::size_t size,
                                      bool& forbidden) noexcept {
  SharedMemory found;
  std::array<char, 48> path;
  std::snprintf(path.data(), path.size(), "/proc/%d/fd/%d", static_cast<int>(process), file);
  // To open some files does something.
  std::array<char, 128> target;
  const ssize_t length = ::readlink(path.data(), target.data(), target.size());
  forbidden = length < 0 && (errno == EACCES || errno == EPERM);
  const std::string_view is(target.data(), length > 0 ? static_cast<std::size_t>(length) : 0);
  const std::string wanted = std::string("/memfd:") + name + " (deleted)";
  if (is != wanted) return found;
  const int opened = ::open(path.data(), O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (opened < 0) {
    forbidden = errno == EACCES || errno == EPERM;
    return found;
  }
  if (is_such_a_memfd(opened, size)) found.map(opened, size);
  ::close(opened);
  return found;
}

void SharedMemory::map(int file, std::size_t size) noexcept {
  void* const memory = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (memory == MAP_FAILED) return;
  memory_ = memory;
  size_ = size;
}

SharedMemory& SharedMemory::operator=(SharedMemory&& other) noexcept {
  std::swap(memory_, other.memory_);
  std::swap(size_, other.size_);
  std::swap(file_, other.file_);
  return *this;
}

SharedMemory::~SharedMemory() {
  if (memory_ != nullptr) ::munmap(memory_, size_);
  if (file_ >= 0) ::close(file_);
}

NIXL_CONNECT_NAMESPACE_END
