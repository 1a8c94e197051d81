// Memory of the emulated device, and the runtime's calls on memory and devices.
#include <sys/mman.h>

#include <algorithm>
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
#include "streams.hpp"

namespace {

constexpr std::size_t region_bytes = std::size_t{8} << 30, granularity = 256;
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
bool is_device_memory(const void* pointer) {
  const auto* at = static_cast<const unsigned char*>(pointer);
  return at >= region().base && at < region().base + region_bytes;
}
void note_work(char letter) {
  used_devices |= 1U << current_device;
  if (letter != 0 && watched_calls != nullptr) *watched_calls += letter;
}
}  // namespace nmoe::emulation

using nmoe::emulation::DeviceAccess;
using nmoe::emulation::poison;

namespace {

[[noreturn]] void stop(const char* what) {
  std::fprintf(stderr, "emulated device: %s\n", what);
  std::abort();
}

bool is_poison(const unsigned char* begin, const unsigned char* end) {
  return std::all_of(begin, end, [](unsigned char byte) { return byte == poison; });
}

}  // namespace

cudaError_t cudaMalloc(void** pointer, std::size_t bytes) {
  nmoe::emulation::note_work();
  const auto held = nmoe::emulation::lock();
  const DeviceAccess access;
  const std::size_t size = rounded(bytes) + 2 * granularity;
  auto& reusable = region().free_lists[size];
  unsigned char* begin = nullptr;
  if (!reusable.empty()) {
    begin = reusable.back();
    reusable.pop_back();
    if (!is_poison(begin, begin + size)) stop("freed device memory was written");
  } else if (region().used + size <= region_bytes) {
    begin = region().base + region().used;
    region().used += size;
    std::memset(begin, poison, size);
  } else {
    return cudaErrorMemoryAllocation;
  }
  *pointer = begin + granularity;
  region().live[*pointer] = bytes;
  return cudaSuccess;
}

cudaError_t cudaFree(void* pointer) {
  if (pointer == nullptr) return cudaSuccess;
  nmoe::emulation::finish_everything();  // as cudaFree does
  const auto held = nmoe::emulation::lock();
  const DeviceAccess access;
  const auto found = region().live.find(pointer);
  if (found == region().live.end()) std::abort();
  auto* data = static_cast<unsigned char*>(pointer);
  const std::size_t bytes = found->second, size = rounded(bytes) + 2 * granularity;
  if (!is_poison(data - granularity, data) || !is_poison(data + bytes, data - granularity + size))
    stop("a kernel wrote beside an allocation");
  std::memset(data, poison, bytes);
  region().live.erase(found);
  region().free_lists[size].push_back(data - granularity);
  return cudaSuccess;
}

cudaError_t cudaMallocHost(void** pointer, std::size_t bytes) {
  const auto held = nmoe::emulation::lock();
  *pointer = std::malloc(bytes);
  std::memset(*pointer, poison, bytes);
  pinned()[static_cast<const char*>(*pointer)] = bytes;
  return cudaSuccess;
}
// Whether it waits for copies is not documented.
cudaError_t cudaFreeHost(void* pointer) {
  if (pointer == nullptr) return cudaSuccess;
  const auto held = nmoe::emulation::lock();
  const auto found = pinned().find(static_cast<const char*>(pointer));
  if (found == pinned().end()) std::abort();
  if (nmoe::emulation::is_awaited(pointer, found->second)) stop("page-locked memory was freed before a copy");
  std::memset(pointer, poison, found->second);
  pinned().erase(found);
  std::free(pointer);
  return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  const auto held = nmoe::emulation::lock();
  const auto* byte = static_cast<const char*>(pointer);
  const auto after = pinned().upper_bound(byte);
  const bool is_pinned =
      after != pinned().begin() && byte < std::prev(after)->first + std::prev(after)->second;
  attributes->type = nmoe::emulation::is_device_memory(pointer) ? cudaMemoryTypeDevice
                     : is_pinned                                ? cudaMemoryTypeHost
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
