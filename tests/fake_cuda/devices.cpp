// Devices, their contexts, and how functions and errors are named.
#include <dlfcn.h>

#include <cstdio>
#include <cstring>

#include "world.h"

namespace {

const char* name_of(int error) {
  switch (error) {
    case kSuccess: return "CUDA_SUCCESS";
    case kInvalidValue: return "CUDA_ERROR_INVALID_VALUE";
    case kOutOfMemory: return "CUDA_ERROR_OUT_OF_MEMORY";
    case kInvalidDevice: return "CUDA_ERROR_INVALID_DEVICE";
    case kInvalidContext: return "CUDA_ERROR_INVALID_CONTEXT";
    case kInvalidHandle: return "CUDA_ERROR_INVALID_HANDLE";
    case kNotFound: return "CUDA_ERROR_NOT_FOUND";
    case kIllegalAddress: return "CUDA_ERROR_ILLEGAL_ADDRESS";
    case kNotSupported: return "CUDA_ERROR_NOT_SUPPORTED";
    default: return nullptr;
  }
}

}  // namespace

extern "C" {

int cuInit(unsigned) {
  FAKE_CALL("cuInit");
  return kSuccess;
}

int cuDriverGetVersion(int* version) {
  FAKE_CALL("cuDriverGetVersion");
  *version = 12090;
  return kSuccess;
}

int cuGetErrorName(int error, const char** name) {
  *name = name_of(error);
  return *name != nullptr ? kSuccess : kInvalidValue;
}

int cuGetErrorString(int error, const char** text) { return cuGetErrorName(error, text); }

int cuGetProcAddress_v2(const char* symbol, void** function, int, std::uint64_t, int* status) {
  Dl_info here{};
  ::dladdr(reinterpret_cast<void*>(&cuInit), &here);
  void* self = ::dlopen(here.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
  *function = nullptr;
  for (const char* suffix : {"_v2", ""}) {
    *function = ::dlsym(self, (std::string(symbol) + suffix).c_str());
    if (*function != nullptr) break;
  }
  ::dlclose(self);
  if (status != nullptr) *status = *function != nullptr ? 0 : 1;
  return *function != nullptr ? kSuccess : kNotFound;
}

int cuDeviceGetCount(int* count) {
  FAKE_CALL("cuDeviceGetCount");
  *count = int(world().contexts.size());
  return kSuccess;
}

int cuDeviceGet(int* device, int ordinal) {
  FAKE_CALL("cuDeviceGet");
  if (!world().has(ordinal)) return kInvalidDevice;
  *device = ordinal;
  return kSuccess;
}

int cuDeviceGetName(char* name, int size, int device) {
  FAKE_CALL("cuDeviceGetName");
  if (!world().has(device)) return kInvalidDevice;
  std::snprintf(name, std::size_t(size), "a stand-in for a GPU");
  return kSuccess;
}

int cuDeviceGetUuid(unsigned char* uuid, int device) {
  FAKE_CALL("cuDeviceGetUuid");
  if (!world().has(device)) return kInvalidDevice;
  std::memset(uuid, 0x5a, 16);
  uuid[0] = static_cast<unsigned char>(device);
  return kSuccess;
}

int cuDeviceGetUuid_v2(unsigned char* uuid, int device) { return cuDeviceGetUuid(uuid, device); }

int cuDeviceTotalMem_v2(std::size_t* bytes, int device) {
  FAKE_CALL("cuDeviceTotalMem");
  if (!world().has(device)) return kInvalidDevice;
  *bytes = kDeviceMemory;
  return kSuccess;
}

int cuDeviceGetAttribute(int* value, int attribute, int device) {
  FAKE_CALL("cuDeviceGetAttribute");
  if (!world().has(device)) return kInvalidDevice;
  switch (attribute) {
    case 33: *value = 0xa0 + device; break;  // the PCI bus
    case 41:                                 // unified addressing
    case 102:                                // virtual memory management
    case 103:                                // handles that are files
    case 115:                                // pools
      *value = 1;
      break;
    case 75: *value = 9; break;  // compute capability
    default: *value = 0;
  }
  return kSuccess;
}

int cuDevicePrimaryCtxRetain(Context** context, int device) {
  FAKE_CALL("cuDevicePrimaryCtxRetain");
  if (!world().has(device)) return kInvalidDevice;
  *context = &world().of(device);
  ++(*context)->retained;
  return kSuccess;
}

int cuDevicePrimaryCtxRelease_v2(int device) {
  FAKE_CALL("cuDevicePrimaryCtxRelease");
  if (!world().has(device)) return kInvalidDevice;
  if (world().of(device).retained == 0) return kInvalidContext;
  --world().of(device).retained;
  return kSuccess;
}

int cuDevicePrimaryCtxGetState(int device, unsigned* flags, int* active) {
  FAKE_CALL("cuDevicePrimaryCtxGetState");
  if (!world().has(device)) return kInvalidDevice;
  *flags = 0;
  *active = world().of(device).retained > 0;
  return kSuccess;
}

int cuCtxGetCurrent(Context** context) {
  FAKE_CALL("cuCtxGetCurrent");
  *context = context_now();
  return kSuccess;
}

int cuCtxSetCurrent(Context* context) {
  FAKE_CALL("cuCtxSetCurrent");
  if (context_now() != nullptr) contexts_of_thread().pop();
  if (context != nullptr) contexts_of_thread().push(context);
  return kSuccess;
}

int cuCtxPushCurrent_v2(Context* context) {
  FAKE_CALL("cuCtxPushCurrent");
  if (context == nullptr || context->retained == 0) return kInvalidContext;
  contexts_of_thread().push(context);
  return kSuccess;
}

int cuCtxPopCurrent_v2(Context** context) {
  FAKE_CALL_IN_CONTEXT("cuCtxPopCurrent");
  if (context != nullptr) *context = context_now();
  contexts_of_thread().pop();
  return kSuccess;
}

int cuCtxGetDevice(int* device) {
  FAKE_CALL_IN_CONTEXT("cuCtxGetDevice");
  *device = context_now()->device;
  return kSuccess;
}

int cuCtxGetId(const Context* context, unsigned long long* id) {
  FAKE_CALL("cuCtxGetId");
  if (context == nullptr) context = context_now();
  if (context == nullptr) return kInvalidContext;
  *id = context->id;
  return kSuccess;
}

int cuCtxGetFlags(unsigned* flags) {
  FAKE_CALL_IN_CONTEXT("cuCtxGetFlags");
  *flags = 0;
  return kSuccess;
}

int cuCtxSetFlags(unsigned) {
  FAKE_CALL_IN_CONTEXT("cuCtxSetFlags");
  return kSuccess;
}

}  // extern "C"
