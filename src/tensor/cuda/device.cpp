// Device memory, streams and events through the CUDA runtime.
#include "neuronmoe/tensor/device.hpp"

#include <cuda_runtime.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <mutex>
#include <thread>
#include <unordered_map>

#include "../device_calls.hpp"
#include "neuronmoe/base/error.hpp"

namespace nmoe {

namespace {

void check(cudaError_t status, const char* what) {
  NMOE_CHECK(status == cudaSuccess, internal, "CUDA: {}: {}", what, cudaGetErrorString(status));
}
/// What cuda_allocate handed out. Never destroyed: memory of static objects comes back after main.
struct Ledger {
  std::mutex mutex;
  std::unordered_map<void*, std::int64_t> sizes;
  DeviceMemory total;
};
Ledger& ledger() {
  static auto* only = new Ledger;
  return *only;
}

cudaStream_t native_of(const Stream& stream) {
  return static_cast<cudaStream_t>(stream.native());
}

/// Asks `status` until it is no longer "not ready".
template <typename Status>
void poll(Status&& status, double timeout_s) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::now();
  while (true) {
    const cudaError_t found = status();
    if (found == cudaSuccess) return;
    NMOE_CHECK(found == cudaErrorNotReady, internal, "CUDA: work on the stream failed: {}",
               cudaGetErrorString(found));
    const double waited = std::chrono::duration<double>(Clock::now() - start).count();
    NMOE_CHECK(waited < timeout_s, watchdog, "work on the GPU has not finished after {} s", timeout_s);
    // Most waits are for a few microseconds; a long one leaves the core to the communication thread.
    if (waited > 1e-3) std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
}

std::string cuda_version_text(int version) {
  return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

/// As nvidia-smi -L prints it, without its "GPU-" or "MIG-".
std::string uuid_text(const cudaUUID_t& uuid) {
  std::string text;
  for (std::size_t i = 0; i < sizeof(uuid.bytes); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += fmt::format("{:02x}", static_cast<unsigned char>(uuid.bytes[i]));
  }
  return text;
}

}  // namespace

int num_cuda_devices() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

std::string why_no_cuda_device() {
  int count = 0, driver = 0, runtime = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess && count > 0) return "";
  if (status == cudaSuccess || status == cudaErrorNoDevice) return "this process sees no CUDA device";
  if (status != cudaErrorInsufficientDriver)
    return fmt::format("the CUDA devices cannot be asked for: {}", cudaGetErrorString(status));
  check(cudaDriverGetVersion(&driver), "version of the driver");  // 0: there is none
  check(cudaRuntimeGetVersion(&runtime), "version of the runtime");
  if (driver == 0)
    return fmt::format("no NVIDIA driver was found (libcuda.so.1; this program needs CUDA {})",
                       cuda_version_text(runtime));
  return fmt::format(
      "the NVIDIA driver is for CUDA {}, this program for CUDA {} ({}); update the driver or build "
      "with an older toolkit",
      cuda_version_text(driver), cuda_version_text(runtime), cudaGetErrorString(status));
}

void* cuda_allocate(long long num_bytes) {
  void* pointer = nullptr;
  const cudaError_t status = cudaMalloc(&pointer, static_cast<std::size_t>(num_bytes));
  NMOE_CHECK(status == cudaSuccess, config,
             "{} bytes of GPU memory: {}; use smaller micro-batches or more GPUs", num_bytes,
             cudaGetErrorString(status));
  check(cudaMemset(pointer, 0, static_cast<std::size_t>(num_bytes)), "clearing new memory");
  check(cudaStreamSynchronize(nullptr), "clearing new memory");  // our streams do not wait for that one
  const std::lock_guard lock(ledger().mutex);
  DeviceMemory& total = ledger().total;
  ledger().sizes[pointer] = num_bytes;
  total.in_use += num_bytes;
  total.peak = std::max(total.peak, total.in_use);
  ++total.num_allocations;
  return pointer;
}

DeviceMemory device_memory() {
  const std::lock_guard lock(ledger().mutex);
  return ledger().total;
}

CardMemory card_memory() {
  std::size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "memory of the device");
  return {static_cast<std::int64_t>(free), static_cast<std::int64_t>(total)};
}

void cuda_free(void* pointer) noexcept {
  if (pointer != nullptr) {
    const std::lock_guard lock(ledger().mutex);
    const auto found = ledger().sizes.find(pointer);
    if (found != ledger().sizes.end()) {
      ledger().total.in_use -= found->second;
      ledger().sizes.erase(found);
    }
  }
  static_cast<void>(cudaFree(pointer));
}

CudaDevice current_cuda_device() {
  int index = 0;
  check(cudaGetDevice(&index), "asking for the device");
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, index), "properties of the device");
  char bus_id[32] = {};
  check(cudaDeviceGetPCIBusId(bus_id, sizeof(bus_id), index), "bus id of the device");
  return {index, properties.name, bus_id, uuid_text(properties.uuid),
          static_cast<std::int64_t>(properties.totalGlobalMem)};
}

CudaDevice select_cuda_device(int index) {
  const int visible = num_cuda_devices();
  NMOE_CHECK(visible > 0, config, "GPU {}: {}", index, why_no_cuda_device());
  NMOE_CHECK(index >= 0 && index < visible, config, "GPU {} of {} that this process sees", index, visible);
  check(cudaSetDevice(index), "choosing the device");
  return current_cuda_device();
}

bool use_cuda_device(int index) noexcept {
  return cudaSetDevice(index) == cudaSuccess;
}

void synchronize(Stream& stream, double timeout_s) {
  if (stream.device() == Device::cpu) return;
  poll([&] { return cudaStreamQuery(native_of(stream)); }, timeout_s);
}

namespace detail {

void cuda_copy(void* to, const void* from, std::int64_t bytes, Stream& stream) {
  check(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), cudaMemcpyDefault, native_of(stream)),
        "copy");
}
bool cuda_is_pageable(const void* host) {
  cudaPointerAttributes attributes;
  check(cudaPointerGetAttributes(&attributes, host), "kind of memory");
  return attributes.type == cudaMemoryTypeUnregistered;
}
void cuda_zero(void* to, std::int64_t bytes, Stream& stream) {
  check(cudaMemsetAsync(to, 0, static_cast<std::size_t>(bytes), native_of(stream)), "clearing memory");
}
void* cuda_pinned_allocate(std::int64_t bytes) {
  void* pointer = nullptr;
  const cudaError_t status = cudaMallocHost(&pointer, static_cast<std::size_t>(bytes));
  NMOE_CHECK(status == cudaSuccess, config, "{} bytes of page-locked host memory: {}", bytes,
             cudaGetErrorString(status));
  return pointer;
}
void cuda_pinned_free(void* pointer) noexcept {
  static_cast<void>(cudaFreeHost(pointer));
}
void* cuda_stream_create() {
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "making a stream");
  return stream;
}
void cuda_stream_destroy(void* native) noexcept {
  static_cast<void>(cudaStreamDestroy(static_cast<cudaStream_t>(native)));
}
void* cuda_event_create() {
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "making an event");
  return event;
}
void cuda_event_destroy(void* native) noexcept {
  static_cast<void>(cudaEventDestroy(static_cast<cudaEvent_t>(native)));
}
void cuda_event_record(void* native, Stream& stream) {
  check(cudaEventRecord(static_cast<cudaEvent_t>(native), native_of(stream)), "recording an event");
}
bool cuda_event_reached(void* native) {
  const cudaError_t status = cudaEventQuery(static_cast<cudaEvent_t>(native));
  if (status != cudaErrorNotReady) check(status, "asking for an event");
  return status == cudaSuccess;
}
void cuda_event_wait(void* native, double timeout_s) {
  poll([&] { return cudaEventQuery(static_cast<cudaEvent_t>(native)); }, timeout_s);
}
void cuda_stream_wait(Stream& stream, void* native_event) {
  check(cudaStreamWaitEvent(native_of(stream), static_cast<cudaEvent_t>(native_event), 0),
        "waiting for an event");
}

}  // namespace detail

}  // namespace nmoe
