#include "system/close_on_exec.h"

#include <fcntl.h>
#include <link.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdarg>
#include <cstdint>
#include <mutex>

NIXL_CONNECT_NAMESPACE_BEGIN

namespace {

int socket_closed(int domain, int type, int protocol) {
  return ::socket(domain, type | SOCK_CLOEXEC, protocol);
}
int accept_closed(int socket, ::sockaddr* address, ::socklen_t* size) {
  return ::accept4(socket, address, size, SOCK_CLOEXEC);
}
int pipe_closed(int* ends) { return ::pipe2(ends, O_CLOEXEC); }
int epoll_create_closed(int size) {
  if (size <= 0) return ::epoll_create(size);
  return ::epoll_create1(EPOLL_CLOEXEC);
}
int eventfd_closed(unsigned count, int flags) { return ::eventfd(count, flags | EFD_CLOEXEC); }
int timerfd_create_closed(int clock, int flags) {
  return ::timerfd_create(clock, flags | TFD_CLOEXEC);
}
int open_closed(const char* path, int flags, ...) {
  ::mode_t mode = 0;
  if ((flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE) {
    std::va_list arguments;
    va_start(arguments, flags);
    mode = va_arg(arguments, ::mode_t);
    va_end(arguments);
  }
  return ::open(path, flags | O_CLOEXEC, mode);
}

struct Redirection {
  std::string_view name;
  void* to;
};
const Redirection redirections[] = {
    {"socket", reinterpret_cast<void*>(&socket_closed)},
    {"accept", reinterpret_cast<void*>(&accept_closed)},
    {"pipe", reinterpret_cast<void*>(&pipe_closed)},
    {"epoll_create", reinterpret_cast<void*>(&epoll_create_closed)},
    {"eventfd", reinterpret_cast<void*>(&eventfd_closed)},
    {"timerfd_create", reinterpret_cast<void*>(&timerfd_create_closed)},
    {"open", reinterpret_cast<void*>(&open_closed)},
};

#if defined(__x86_64__)
constexpr std::array<unsigned, 2> kSlotTypes{R_X86_64_JUMP_SLOT, R_X86_64_GLOB_DAT};
#elif defined(__aarch64__)
constexpr std::array<unsigned, 2> kSlotTypes{R_AARCH64_JUMP_SLOT, R_AARCH64_GLOB_DAT};
#else
constexpr std::array<unsigned, 0> kSlotTypes{};
#endif

/// What a loaded library's dynamic section says of the functions that it has from others.
class Imports {
 public:
  explicit Imports(const ::dl_phdr_info& library) : base_(library.dlpi_addr) {
    const ElfW(Dyn)* dynamic = nullptr;
    for (int i = 0; i < library.dlpi_phnum; ++i) {
      const auto& header = library.dlpi_phdr[i];
      if (header.p_type == PT_DYNAMIC) dynamic = at<const ElfW(Dyn)>(base_ + header.p_vaddr);
      if (header.p_type == PT_GNU_RELRO) {
        read_only_ = base_ + header.p_vaddr;
        read_only_end_ = read_only_ + header.p_memsz;
      }
    }
    for (; dynamic != nullptr && dynamic->d_tag != DT_NULL; ++dynamic) {
      const auto value = static_cast<std::uintptr_t>(dynamic->d_un.d_ptr);
      switch (dynamic->d_tag) {
        case DT_SYMTAB: symbols_ = at<const ElfW(Sym)>(value); break;
        case DT_STRTAB: names_ = at<const char>(value); break;
        case DT_JMPREL: tables_[0].first = at<const ElfW(Rela)>(value); break;
        case DT_PLTRELSZ: tables_[0].size = value; break;
        case DT_RELA: tables_[1].first = at<const ElfW(Rela)>(value); break;
        case DT_RELASZ: tables_[1].size = value; break;
        default: break;
      }
    }
  }

  void redirect() const noexcept {
    if (symbols_ == nullptr || names_ == nullptr) return;
    for (const Table& table : tables_) {
      const std::size_t count = table.first == nullptr ? 0 : table.size / sizeof *table.first;
      for (std::size_t i = 0; i < count; ++i) redirect(table.first[i]);
    }
  }

 private:
  struct Table {
    const ElfW(Rela) * first = nullptr;
    std::size_t size = 0;
  };

  template <typename T>
  static T* at(std::uintptr_t address) noexcept {
    return reinterpret_cast<T*>(address);  // NOLINT: the loader's tables have numbers
  }

  void redirect(const ElfW(Rela) & relocation) const noexcept {
    bool is_slot = false;
    for (const unsigned type : kSlotTypes) is_slot |= ELF64_R_TYPE(relocation.r_info) == type;
    if (!is_slot) return;
    const std::string_view name = names_ + symbols_[ELF64_R_SYM(relocation.r_info)].st_name;
    for (const Redirection& redirection : redirections) {
      if (name == redirection.name) store(base_ + relocation.r_offset, redirection.to);
    }
  }

  void store(std::uintptr_t slot, void* value) const noexcept {
    const auto page_size = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
    void* const page = at<void>(slot & ~(page_size - 1));
    const bool protect = read_only_ <= slot && slot < read_only_end_;
    if (protect && ::mprotect(page, page_size, PROT_READ | PROT_WRITE) != 0) return;
    // Another thread may be calling it.
    std::atomic_ref<void*>(*at<void*>(slot)).store(value, std::memory_order_release);
    if (protect) ::mprotect(page, page_size, PROT_READ);
  }

  std::uintptr_t base_;
  std::uintptr_t read_only_ = 0;
  std::uintptr_t read_only_end_ = 0;
  const ElfW(Sym) * symbols_ = nullptr;
  const char* names_ = nullptr;
  std::array<Table, 2> tables_;
};

}  // namespace

void close_on_exec_of(std::string_view beginning) noexcept {
  static std::mutex one_at_a_time;
  const std::lock_guard lock(one_at_a_time);
  ::dl_iterate_phdr(
      [](::dl_phdr_info* library, std::size_t, void* data) {
        std::string_view name = library->dlpi_name;
        name.remove_prefix(name.rfind('/') + 1);
        if (name.starts_with(*static_cast<const std::string_view*>(data))) {
          Imports(*library).redirect();
        }
        return 0;
      },
      &beginning);
}

NIXL_CONNECT_NAMESPACE_END
