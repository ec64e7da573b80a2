// Memory: where it comes from, what the driver tells of it, and how other processes get at it.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <new>

#include "fake_cuda.h"
#include "world.h"

namespace {

/// What the driver maps at once.
constexpr std::size_t kBlockSize = std::size_t{2} << 20;

constexpr int kFileHandle = 1;  // CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
constexpr int kOnDevice = 1;    // CU_MEM_LOCATION_TYPE_DEVICE
/// Another process's memory. It is told apart only here.
constexpr int kOpened = -1;

std::size_t rounded(std::size_t size) { return (size + kBlockSize - 1) / kBlockSize * kBlockSize; }

int new_file(std::size_t size) {
  const int file = ::memfd_create("fake_cuda", MFD_CLOEXEC);
  if (file >= 0 && ::ftruncate(file, static_cast<off_t>(size)) == 0) return file;
  if (file >= 0) ::close(file);
  return -1;
}

/// Addresses apart from the host's, for nothing yet.
std::uintptr_t reserve(std::size_t size) {
  void* wide = ::mmap(nullptr, size + kBlockSize, PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (wide == MAP_FAILED) return 0;
  const auto start = reinterpret_cast<std::uintptr_t>(wide);
  const std::uintptr_t aligned = (start + kBlockSize - 1) / kBlockSize * kBlockSize;
  if (aligned > start) ::munmap(wide, aligned - start);
  ::munmap(reinterpret_cast<void*>(aligned + size), start + kBlockSize - aligned);
  return aligned;
}

/// Whether the host may look.
bool open_to_host(int kind) { return !world().live || kind == kFakeManaged || kind == kFakePinned; }

/// Maps a block where addresses have been reserved for it.
std::uintptr_t show(std::uintptr_t start, Allocation allocation) {
  if (open_to_host(allocation.kind)) {
    ::mmap(reinterpret_cast<void*>(start), allocation.mapped, PROT_READ | PROT_WRITE,
           MAP_SHARED | MAP_FIXED, allocation.block->file, 0);
  }
  allocation.id = ++world().allocations;
  world().memory[start] = std::move(allocation);
  return start;
}

void hide(std::map<std::uintptr_t, Allocation>::iterator it, bool keep_addresses) {
  void* start = reinterpret_cast<void*>(it->first);
  if (keep_addresses) {
    ::mmap(start, it->second.mapped, PROT_NONE,
           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  } else {
    ::munmap(start, it->second.mapped);
  }
  world().memory.erase(it);
}

int allocate(Address* address, std::size_t size, int device, int kind) {
  if (size == 0) return kInvalidValue;
  const std::size_t mapped = rounded(size);
  const int file = new_file(mapped);
  if (file < 0) return kOutOfMemory;
  const std::uintptr_t start = reserve(mapped);
  if (start == 0) {
    ::close(file);
    return kOutOfMemory;
  }
  auto block = std::make_shared<Block>(file, mapped, device);
  *address = show(start, {std::move(block), size, mapped, device, kind});
  return kSuccess;
}

int release(Address address) {
  if (address == 0) return kSuccess;
  const auto it = world().memory.find(address);
  if (it == world().memory.end()) return kInvalidValue;
  hide(it, false);
  return kSuccess;
}

/// What `cuIpcMemHandle` is made of.
struct IpcHandle {
  pid_t process;
  int file;
  std::size_t size;
  std::uint64_t id;
};

struct Location {
  int type;
  int id;
};

struct Properties {
  int type;
  int handle_types;
  Location location;
  void* windows;
  unsigned char flags[8];
};

}  // namespace

// UCX puts hooks of its own where these functions begin. It can do so only where it understands the
// instructions that it moves away, as it does the real driver's; so they begin with some that it
// does.
#ifdef __x86_64__
#define FAKE_HOOKED(name)                                                       \
  asm(".globl " #name "\n.type " #name ", @function\n" #name                    \
      ":\nmov $0, %eax\nmov $0, %eax\nmov $0, %eax\njmp " #name "_body@PLT\n"); \
  extern "C" int name##_body
#else
#define FAKE_HOOKED(name) extern "C" int name
#endif

Block::Block(int its_file, std::size_t its_size, int its_device)
    : file(its_file),
      size(its_size),
      device(its_device),
      inside(static_cast<unsigned char*>(
          ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0))) {
  if (static_cast<void*>(inside) == MAP_FAILED) throw std::bad_alloc();
}

Block::~Block() {
  ::munmap(inside, size);
  ::close(file);
}

std::map<std::uintptr_t, Allocation>::iterator World::find(Address address) {
  auto it = memory.upper_bound(address);
  if (it == memory.begin()) return memory.end();
  --it;
  return address < it->first + it->second.size ? it : memory.end();
}

Span World::span(Address address, std::size_t size) {
  const auto it = find(address);
  if (it == memory.end()) return {reinterpret_cast<unsigned char*>(address), nullptr};
  const std::size_t offset = address - it->first;
  if (size > it->second.mapped - offset) return {};
  return {it->second.block->inside + offset, it->second.block};
}

extern "C" {

void* fake_cuda_malloc(std::size_t size, int device, int kind) {
  const std::lock_guard lock(world().mutex);
  Address address = 0;
  if (!world().has(device)) return nullptr;
  world().in_use(device);
  return allocate(&address, size, device, kind) == kSuccess ? reinterpret_cast<void*>(address)
                                                            : nullptr;
}

void fake_cuda_free(void* memory) {
  const std::lock_guard lock(world().mutex);
  release(reinterpret_cast<Address>(memory));
}

FAKE_HOOKED(cuMemAlloc_v2)(Address* address, std::size_t size) {
  FAKE_CALL_IN_CONTEXT("cuMemAlloc");
  return allocate(address, size, context_now()->device, kFakePlain);
}

int cuMemGetInfo_v2(std::size_t* left, std::size_t* total) {
  FAKE_CALL_IN_CONTEXT("cuMemGetInfo");
  *total = kDeviceMemory;
  *left = kDeviceMemory;
  for (const auto& [start, allocation] : world().memory) {
    if (allocation.device == context_now()->device) *left -= allocation.mapped;
  }
  return kSuccess;
}

FAKE_HOOKED(cuMemFree_v2)(Address address) {
  FAKE_CALL("cuMemFree");
  return release(address);
}

FAKE_HOOKED(cuMemAllocAsync)(Address* address, std::size_t size, Stream* stream) {
  FAKE_CALL_IN_CONTEXT("cuMemAllocAsync");
  const Stream* in = world().stream(stream, context_now());
  if (in == nullptr) return kInvalidHandle;
  return allocate(address, size, in->context->device, kFakePooled);
}

FAKE_HOOKED(cuMemFreeAsync)(Address address, Stream* stream) {
  FAKE_CALL_IN_CONTEXT("cuMemFreeAsync");
  Stream* in = world().stream(stream, context_now());
  if (in == nullptr) return kInvalidHandle;
  Work work;
  work.run = [address] {
    const std::lock_guard lock(world().mutex);
    release(address);
  };
  world().give(in, std::move(work));
  return kSuccess;
}

FAKE_HOOKED(cuMemAllocManaged)(Address* address, std::size_t size, unsigned) {
  FAKE_CALL_IN_CONTEXT("cuMemAllocManaged");
  return allocate(address, size, context_now()->device, kFakeManaged);
}

int cuMemAllocHost_v2(void** address, std::size_t size) {
  FAKE_CALL_IN_CONTEXT("cuMemAllocHost");
  Address made = 0;
  const int error = allocate(&made, size, context_now()->device, kFakePinned);
  *address = reinterpret_cast<void*>(made);
  return error;
}

FAKE_HOOKED(cuMemFreeHost)(void* address) {
  FAKE_CALL("cuMemFreeHost");
  return release(reinterpret_cast<Address>(address));
}

int cuMemHostRegister_v2(void*, std::size_t, unsigned) {
  FAKE_CALL_IN_CONTEXT("cuMemHostRegister");
  return kSuccess;
}

int cuMemHostUnregister(void*) {
  FAKE_CALL_IN_CONTEXT("cuMemHostUnregister");
  return kSuccess;
}

int cuMemGetAddressRange_v2(Address* start, std::size_t* size, Address address) {
  FAKE_CALL_IN_CONTEXT("cuMemGetAddressRange");
  const auto it = world().find(address);
  if (it == world().memory.end()) return kNotFound;
  if (start != nullptr) *start = it->first;
  if (size != nullptr) *size = it->second.size;
  return kSuccess;
}

int cuPointerGetAttributes(unsigned count, int* attributes, void** values, Address address) {
  FAKE_CALL("cuPointerGetAttributes");
  const auto it = world().find(address);
  const Allocation* found = it == world().memory.end() ? nullptr : &it->second;
  const int kind = found == nullptr ? kFakePlain : found->kind;
  const bool host = kind == kFakePinned;
  const bool of_context = kind == kFakePlain || kind == kFakeUntold || kind == kOpened || host;
  for (unsigned i = 0; i < count; ++i) {
    const auto put = [&](auto value) { std::memcpy(values[i], &value, sizeof value); };
    if (found == nullptr) {
      switch (attributes[i]) {
        case 8: put(false); break;
        case 9: put(-2); break;
        case 2:
        case 10:
        case 13: put(0); break;
        default: put(std::uint64_t{0});
      }
      continue;
    }
    switch (attributes[i]) {
      case 1: put(of_context ? &world().of(found->device) : static_cast<Context*>(nullptr)); break;
      case 2: put(host ? 1u : 2u); break;
      case 3:
      case 4: put(address); break;
      case 7: put(found->id); break;
      case 8: put(kind == kFakeManaged); break;
      case 9: put(found->device); break;
      case 10: put(int(kind == kFakePlain)); break;
      case 11: put(std::uint64_t{it->first}); break;
      case 12: put(found->size); break;
      case 13: put(1); break;
      case 14: put(std::uint64_t(kind == kFakeMapped ? kFileHandle : 0)); break;
      case 17: put(kind == kFakePooled ? static_cast<void*>(&world()) : nullptr); break;
      default: return kInvalidValue;
    }
  }
  return kSuccess;
}

int cuPointerGetAttribute(void* value, int attribute, Address address) {
  {
    const std::lock_guard lock(world().mutex);
    if (world().find(address) == world().memory.end()) return kInvalidValue;
  }
  return cuPointerGetAttributes(1, &attribute, &value, address);
}

int cuPointerSetAttribute(const void*, int, Address address) {
  FAKE_CALL("cuPointerSetAttribute");
  return world().find(address) != world().memory.end() ? kSuccess : kInvalidValue;
}

int cuMemRangeGetAttribute(void* value, std::size_t size, int, Address, std::size_t) {
  FAKE_CALL("cuMemRangeGetAttribute");
  const int nowhere = -2;
  if (size != sizeof nowhere) return kInvalidValue;
  std::memcpy(value, &nowhere, size);
  return kSuccess;
}

// Memory that is mapped page by page.

int cuMemGetAllocationGranularity(std::size_t* granularity, const Properties*, int) {
  FAKE_CALL("cuMemGetAllocationGranularity");
  *granularity = kBlockSize;
  return kSuccess;
}

int cuMemCreate(std::shared_ptr<Block>** handle, std::size_t size, const Properties* properties,
                unsigned long long) {
  FAKE_CALL("cuMemCreate");
  if (properties->location.type != kOnDevice || !world().has(properties->location.id)) {
    return kInvalidDevice;
  }
  if ((properties->handle_types & ~kFileHandle) != 0) return kNotSupported;
  if (size == 0 || size % kBlockSize != 0) return kInvalidValue;
  const int file = new_file(size);
  if (file < 0) return kOutOfMemory;
  *handle =
      new std::shared_ptr<Block>(std::make_shared<Block>(file, size, properties->location.id));
  return kSuccess;
}

int cuMemRelease(std::shared_ptr<Block>* handle) {
  FAKE_CALL("cuMemRelease");
  delete handle;
  return kSuccess;
}

int cuMemAddressReserve(Address* address, std::size_t size, std::size_t, Address,
                        unsigned long long) {
  FAKE_CALL("cuMemAddressReserve");
  if (size == 0 || size % kBlockSize != 0) return kInvalidValue;
  *address = reserve(size);
  return *address != 0 ? kSuccess : kOutOfMemory;
}

int cuMemAddressFree(Address address, std::size_t size) {
  FAKE_CALL("cuMemAddressFree");
  return ::munmap(reinterpret_cast<void*>(address), size) == 0 ? kSuccess : kInvalidValue;
}

FAKE_HOOKED(cuMemMap)
(Address address, std::size_t size, std::size_t offset, std::shared_ptr<Block>* handle,
 unsigned long long) {
  FAKE_CALL("cuMemMap");
  if (offset != 0 || size > (*handle)->size) return kInvalidValue;
  show(address, {*handle, size, size, (*handle)->device, kFakeMapped});
  return kSuccess;
}

int cuMemSetAccess(Address address, std::size_t, const void*, std::size_t) {
  FAKE_CALL("cuMemSetAccess");
  return world().find(address) != world().memory.end() ? kSuccess : kInvalidValue;
}

FAKE_HOOKED(cuMemUnmap)(Address address, std::size_t size) {
  FAKE_CALL("cuMemUnmap");
  while (size > 0) {
    const auto it = world().memory.find(address);
    if (it == world().memory.end() || it->second.mapped > size) return kInvalidValue;
    address += it->second.mapped;
    size -= it->second.mapped;
    hide(it, true);
  }
  return kSuccess;
}

int cuMemRetainAllocationHandle(std::shared_ptr<Block>** handle, void* address) {
  FAKE_CALL("cuMemRetainAllocationHandle");
  const auto it = world().find(reinterpret_cast<Address>(address));
  if (it == world().memory.end() || it->second.kind != kFakeMapped) return kInvalidValue;
  *handle = new std::shared_ptr<Block>(it->second.block);
  return kSuccess;
}

int cuMemGetAllocationPropertiesFromHandle(Properties* properties, std::shared_ptr<Block>* handle) {
  FAKE_CALL("cuMemGetAllocationPropertiesFromHandle");
  *properties = {};
  properties->type = 1;
  properties->handle_types = kFileHandle;
  properties->location = {kOnDevice, (*handle)->device};
  return kSuccess;
}

int cuMemExportToShareableHandle(void* made, std::shared_ptr<Block>* handle, int type,
                                 unsigned long long) {
  FAKE_CALL("cuMemExportToShareableHandle");
  if (type != kFileHandle) return kNotSupported;
  const int file = ::dup((*handle)->file);
  if (file < 0) return kOutOfMemory;
  std::memcpy(made, &file, sizeof file);
  return kSuccess;
}

int cuMemImportFromShareableHandle(std::shared_ptr<Block>** handle, void* exported, int type) {
  FAKE_CALL("cuMemImportFromShareableHandle");
  if (type != kFileHandle) return kNotSupported;
  const int file = ::dup(static_cast<int>(reinterpret_cast<std::intptr_t>(exported)));
  if (file < 0) return kInvalidValue;
  const off_t size = ::lseek(file, 0, SEEK_END);
  const int device = context_now() == nullptr ? 0 : context_now()->device;
  *handle = new std::shared_ptr<Block>(
      std::make_shared<Block>(file, static_cast<std::size_t>(size), device));
  return kSuccess;
}

// Between processes.

int cuIpcGetMemHandle(IpcHandle* handle, Address address) {
  FAKE_CALL("cuIpcGetMemHandle");
  const auto it = world().find(address);
  if (it == world().memory.end() || it->second.kind != kFakePlain) return kInvalidValue;
  const Allocation& found = it->second;
  std::memset(handle, 0, 64);
  *handle = {::getpid(), found.block->file, found.size, found.id};
  return kSuccess;
}

struct IpcBytes {
  unsigned char bytes[64];
};

int cuIpcOpenMemHandle_v2(Address* address, IpcBytes bytes, unsigned) {
  FAKE_CALL_IN_CONTEXT("cuIpcOpenMemHandle");
  IpcHandle handle{};
  std::memcpy(&handle, bytes.bytes, sizeof handle);
  if (handle.process == ::getpid()) return kInvalidContext;
  // What is open already is the same memory again.
  const std::uint64_t id = std::uint64_t(handle.process) << 32 | handle.id;
  for (auto& [start, known] : world().memory) {
    if (known.kind != kOpened || known.id != id) continue;
    ++known.opened;
    *address = start;
    return kSuccess;
  }
  char path[64];
  std::snprintf(path, sizeof path, "/proc/%d/fd/%d", handle.process, handle.file);
  const int file = ::open(path, O_RDWR | O_CLOEXEC);
  if (file < 0) return kInvalidValue;
  const std::size_t mapped = rounded(handle.size);
  const std::uintptr_t start = reserve(mapped);
  const int device = context_now()->device;
  show(start,
       {std::make_shared<Block>(file, mapped, device), handle.size, mapped, device, kOpened});
  world().memory[start].id = id;
  world().memory[start].opened = 1;
  *address = start;
  return kSuccess;
}

int cuIpcCloseMemHandle(Address address) {
  FAKE_CALL_IN_CONTEXT("cuIpcCloseMemHandle");
  const auto it = world().memory.find(address);
  if (it == world().memory.end() || it->second.kind != kOpened) return kInvalidValue;
  if (--it->second.opened == 0) hide(it, false);
  return kSuccess;
}

// Pools are not shared between processes here.

int cuMemPoolDestroy(void*) { return kNotSupported; }
int cuMemPoolExportPointer(void*, Address) { return kNotSupported; }
int cuMemPoolExportToShareableHandle(void*, void*, int, unsigned long long) {
  return kNotSupported;
}
int cuMemPoolImportFromShareableHandle(void**, void*, int, unsigned long long) {
  return kNotSupported;
}
int cuMemPoolImportPointer(Address*, void*, void*) { return kNotSupported; }
int cuMemPoolSetAccess(void*, const void*, std::size_t) { return kNotSupported; }

}  // extern "C"
