// The runtime calls of cuda_runtime.h on one emulated device. Everything has happened when a call returns.
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "cuda_runtime.h"
#include "hooks.hpp"
#include "memory.hpp"

namespace {

constexpr std::size_t region_bytes = std::size_t{8} << 30, granularity = 256;
constexpr int poison = 0xFF;  // NaN in every floating type, -1 in every integer
int open_accesses = 0;

/// Allocations carry `granularity` bytes of poison before and after them, checked when they are freed.
struct Region {
  unsigned char* base = static_cast<unsigned char*>(
      mmap(nullptr, region_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  std::size_t used = 0;
  std::map<void*, std::size_t> live;
  std::map<std::size_t, std::vector<unsigned char*>> free_lists;
};
Region& region() {
  static Region only;
  return only;
}

/// NMOE_EMULATED_GUARD=0 leaves device memory open to the host: long runs spend most of their time closing
/// it.
void protect(int protection) {
  static const bool guards = [] {
    const char* text = std::getenv("NMOE_EMULATED_GUARD");
    return text == nullptr || std::string(text) != "0";
  }();
  static bool open = false;
  if (!guards && open) return;
  open = true;
  if (mprotect(region().base, region_bytes, protection) != 0) std::abort();
}

thread_local int current_device = 0;
/// Notes a call that works on the device of this thread.
void work(char letter = 0) {
  nmoe::emulation::used_devices |= 1U << current_device;
  if (letter != 0 && nmoe::emulation::watched_calls != nullptr) *nmoe::emulation::watched_calls += letter;
}
constexpr int runtime_version = 13000;
/// NMOE_EMULATED_DRIVER, as cudaDriverGetVersion counts: 0 for none.
int driver_version() {
  const char* text = std::getenv("NMOE_EMULATED_DRIVER");
  return text == nullptr ? runtime_version : std::atoi(text);
}
/// Page-locked memory by its begin.
std::map<const char*, std::size_t>& pinned() {
  static std::map<const char*, std::size_t> only;
  return only;
}

const std::vector<std::string>& visible_devices() {
  static const std::vector<std::string> bus_ids = [] {
    const char* text = std::getenv("NMOE_EMULATED_GPUS");
    std::vector<std::string> ids;
    std::istringstream list(text == nullptr ? "0000:00:00.0" : text);
    for (std::string id; std::getline(list, id, ',');) ids.push_back(id);
    return ids;
  }();
  return bus_ids;
}

std::size_t rounded(std::size_t bytes) {
  return (bytes + granularity - 1) / granularity * granularity;
}

}  // namespace

namespace nmoe::emulation {
DeviceAccess::DeviceAccess() {
  if (open_accesses++ == 0) protect(PROT_READ | PROT_WRITE);
}
DeviceAccess::~DeviceAccess() {
  if (--open_accesses == 0) protect(PROT_NONE);
}
}  // namespace nmoe::emulation

using nmoe::emulation::DeviceAccess;

cudaError_t cudaMalloc(void** pointer, std::size_t bytes) {
  work();
  const DeviceAccess access;
  const std::size_t size = rounded(bytes) + 2 * granularity;
  auto& reusable = region().free_lists[size];
  unsigned char* begin = nullptr;
  if (!reusable.empty()) {
    begin = reusable.back();
    reusable.pop_back();
  } else if (region().used + size <= region_bytes) {
    begin = region().base + region().used;
    region().used += size;
  } else {
    return cudaErrorMemoryAllocation;
  }
  std::memset(begin, poison, size);
  *pointer = begin + granularity;
  region().live[*pointer] = bytes;
  return cudaSuccess;
}

cudaError_t cudaFree(void* pointer) {
  if (pointer == nullptr) return cudaSuccess;
  const DeviceAccess access;
  const auto found = region().live.find(pointer);
  if (found == region().live.end()) std::abort();
  auto* data = static_cast<unsigned char*>(pointer);
  const std::size_t bytes = found->second, size = rounded(bytes) + 2 * granularity;
  for (unsigned char* p = data - granularity; p < data - granularity + size; ++p) {
    if ((p < data || p >= data + bytes) && *p != poison) {
      std::fprintf(stderr, "a kernel wrote %td bytes from the start of an allocation of %zu\n", p - data,
                   bytes);
      std::abort();
    }
  }
  region().live.erase(found);
  region().free_lists[size].push_back(data - granularity);
  return cudaSuccess;
}

cudaError_t cudaMallocHost(void** pointer, std::size_t bytes) {
  *pointer = std::malloc(bytes);
  pinned()[static_cast<const char*>(*pointer)] = bytes;
  std::memset(*pointer, poison, bytes);
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* pointer) {
  pinned().erase(static_cast<const char*>(pointer));
  std::free(pointer);
  return cudaSuccess;
}
cudaError_t cudaMemset(void* pointer, int value, std::size_t bytes) {
  const DeviceAccess access;
  std::memset(pointer, value, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* pointer, int value, std::size_t bytes, cudaStream_t) {
  return cudaMemset(pointer, value, bytes);
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind, cudaStream_t) {
  work('c');
  const DeviceAccess access;
  std::memmove(to, from, bytes);
  return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  const auto* byte = static_cast<const char*>(pointer);
  const auto after = pinned().upper_bound(byte);
  const bool is_pinned =
      after != pinned().begin() && byte < std::prev(after)->first + std::prev(after)->second;
  const auto* base = reinterpret_cast<const char*>(region().base);
  const bool is_device = byte >= base && byte < base + region_bytes;
  attributes->type = is_device   ? cudaMemoryTypeDevice
                     : is_pinned ? cudaMemoryTypeHost
                                 : cudaMemoryTypeUnregistered;
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  constexpr std::size_t context_bytes = std::size_t{100} << 20;
  *total = region_bytes;
  *free = region_bytes - region().used - context_bytes;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = driver_version();
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = runtime_version;
  return cudaSuccess;
}

// NMOE_EMULATED_GPUS bus ids, separated by commas: the devices this process sees, as CUDA_VISIBLE_DEVICES
// does; "none" for none, "broken" for a driver that answers with an error. An instance of a partitioned GPU
// is its bus id, a slash and a number.
cudaError_t cudaGetDeviceCount(int* count) {
  if (driver_version() < runtime_version) return cudaErrorInsufficientDriver;
  if (visible_devices().front() == "none") return cudaErrorNoDevice;
  if (visible_devices().front() == "broken") return cudaErrorUnknown;
  *count = static_cast<int>(visible_devices().size());
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  current_device = device;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  *properties = {"emulated device", {}, region_bytes, 9, 0};
  const std::size_t number = std::hash<std::string>()(visible_devices().at(static_cast<std::size_t>(device)));
  std::memcpy(properties->uuid.bytes, &number, sizeof(number));
  return cudaSuccess;
}
cudaError_t cudaDeviceGetPCIBusId(char* text, int length, int device) {
  const std::string& id = visible_devices().at(static_cast<std::size_t>(device));
  std::snprintf(text, static_cast<std::size_t>(length), "%s", id.substr(0, id.find('/')).c_str());
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  static char one_byte_each[64];
  static int next = 0;
  *stream = reinterpret_cast<cudaStream_t>(&one_byte_each[next++ % 64]);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t) {
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) {
  return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t) {
  work('q');
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) {
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  static char byte;
  *event = reinterpret_cast<cudaEvent_t>(&byte);
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t) {
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) {
  work();
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t) {
  work();
  return cudaSuccess;
}
const char* cudaGetErrorString(cudaError_t status) {
  switch (status) {
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInsufficientDriver:
      return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
    case cudaErrorUnknown:
      return "unknown error";
    default:
      return "no error";
  }
}
cudaError_t cudaGetLastError() {
  return cudaSuccess;
}
