#include "nixl_connect/descriptor.h"

#include "system/mapped_memory.h"

NIXL_CONNECT_NAMESPACE_BEGIN

bool is_writable(const Descriptor& descriptor) noexcept {
  if (descriptor.device.kind != DeviceKind::host || descriptor.size == 0) return true;
  return may_be_written(descriptor.address) &&
         may_be_written(descriptor.address + descriptor.size - 1);
}

NIXL_CONNECT_NAMESPACE_END
