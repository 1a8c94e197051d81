// Linked instead of cuda/device.cpp when no CUDA toolkit was found: honest errors, no silent fallback.
#include "neuronmoe/tensor/device.hpp"

#include "../device_calls.hpp"
#include "neuronmoe/base/error.hpp"

namespace nmoe {

namespace {
[[noreturn]] void missing(const char* what) {
  throw Error(ErrorCode::config, fmt::format("{} on a GPU: built without CUDA; use --device cpu", what));
}
}  // namespace

int num_cuda_devices() {
  return 0;
}
std::string why_no_cuda_device() {
  return "this program was built without CUDA";
}
void* cuda_allocate(long long) {
  missing("memory");
}
void cuda_free(void*) noexcept {}
DeviceMemory device_memory() {
  return {};
}
CardMemory card_memory() {
  missing("memory");
}
CudaDevice select_cuda_device(int) {
  missing("work");
}
bool use_cuda_device(int) noexcept {
  return false;
}
CudaDevice current_cuda_device() {
  missing("work");
}
void synchronize(Stream& stream, double) {
  if (stream.device() == Device::cuda) missing("waiting for work");
}

namespace detail {

void cuda_copy(void*, const void*, std::int64_t, Stream&) {
  missing("a copy");
}
bool cuda_is_pageable(const void*) {
  missing("a copy");
}
void cuda_zero(void*, std::int64_t, Stream&) {
  missing("clearing memory");
}
void* cuda_pinned_allocate(std::int64_t) {
  missing("page-locked memory");
}
void cuda_pinned_free(void*) noexcept {}
void* cuda_stream_create() {
  missing("a stream");
}
void cuda_stream_destroy(void*) noexcept {}
void* cuda_event_create() {
  missing("an event");
}
void cuda_event_destroy(void*) noexcept {}
void cuda_event_record(void*, Stream&) {
  missing("an event");
}
bool cuda_event_reached(void*) {
  missing("an event");
}
void cuda_event_wait(void*, double) {
  missing("an event");
}
void cuda_stream_wait(Stream&, void*) {
  missing("an event");
}

}  // namespace detail

}  // namespace nmoe
