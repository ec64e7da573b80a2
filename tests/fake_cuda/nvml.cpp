// A stand-in for NVIDIA's management library, `libnvidia-ml.so.1`: what UCX asks of it, of GPUs
// that have `FAKE_CUDA_NVLINKS` links to others, 18 if nothing is said. Without links UCX does not
// read over CUDA IPC.
#include <cstdint>
#include <cstring>

#include "environment.h"

namespace {

constexpr int kNotSupported = 3;
constexpr unsigned kLinkCount = 91;  // NVML_FI_DEV_NVLINK_LINK_COUNT

struct Pci {
  char legacy_id[16];
  unsigned domain, bus, device, ids, subsystem;
  char id[32];
};

struct Field {
  unsigned id, scope;
  long long timestamp, latency;
  int type, error;
  unsigned long long value;
};

}  // namespace

extern "C" {

int nvmlInit_v2() { return 0; }
int nvmlShutdown() { return 0; }
const char* nvmlErrorString(int) { return "an error of the stand-in"; }

int nvmlDeviceGetCount_v2(unsigned* count) {
  *count = unsigned(from_environment("FAKE_CUDA_DEVICES", 4));
  return 0;
}

// A handle is the index, and one.
int nvmlDeviceGetHandleByIndex_v2(unsigned index, char** device) {
  *device = reinterpret_cast<char*>(std::uintptr_t{index} + 1);
  return 0;
}
int nvmlDeviceGetHandleByIndex(unsigned index, char** device) {
  return nvmlDeviceGetHandleByIndex_v2(index, device);
}

int nvmlDeviceGetPciInfo_v3(char* device, Pci* pci) {
  std::memset(pci, 0, sizeof *pci);
  pci->bus = 0xa0 + unsigned(reinterpret_cast<std::uintptr_t>(device)) - 1;
  return 0;
}

int nvmlDeviceGetFieldValues(char*, int count, Field* fields) {
  for (int i = 0; i < count; ++i) {
    fields[i].error = fields[i].id == kLinkCount ? 0 : kNotSupported;
    fields[i].type = 1;
    fields[i].value = unsigned(from_environment("FAKE_CUDA_NVLINKS", 18));
  }
  return 0;
}

int nvmlDeviceGetNvLinkRemotePciInfo_v2(char* device, unsigned, Pci* pci) {
  return nvmlDeviceGetPciInfo_v3(device, pci);
}
int nvmlDeviceGetNvLinkRemotePciInfo(char* device, unsigned link, Pci* pci) {
  return nvmlDeviceGetNvLinkRemotePciInfo_v2(device, link, pci);
}

int nvmlDeviceGetGpuFabricInfoV(char*, void*) { return kNotSupported; }
}
