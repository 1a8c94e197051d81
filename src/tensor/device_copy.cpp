// The parts of tensor/device.hpp that are the same in every build; cuda/ and no_cuda/ hold the rest.
#include <cstring>

#include "device_calls.hpp"
#include "neuronmoe/tensor/device.hpp"

namespace nmoe {

namespace {

void check_alike(ConstTensorView dst, ConstTensorView src) {
  NMOE_CHECK(dst.dtype() == src.dtype() && dst.num_elements() == src.num_elements(), internal,
             "copy of {} {} into {} {}", name_of(src.dtype()), src.shape().to_string(), name_of(dst.dtype()),
             dst.shape().to_string());
}

}  // namespace

PinnedMemory::PinnedMemory(std::int64_t num_bytes)
    : data_(detail::cuda_pinned_allocate(num_bytes)), num_bytes_(num_bytes) {}
PinnedMemory::~PinnedMemory() {
  detail::cuda_pinned_free(data_);
}

void start_copy(TensorView dst, ConstTensorView src, Stream& stream) {
  check_alike(dst, src);
  NMOE_CHECK(stream.device() == Device::cuda, internal, "a copy to or from the GPU was given a CPU stream");
  if (dst.num_elements() > 0) detail::cuda_copy(dst.raw(), src.raw(), src.num_bytes(), stream);
}

void copy(TensorView dst, ConstTensorView src, Stream& stream) {
  check_alike(dst, src);
  if (dst.num_elements() == 0) return;
  if (dst.device() == Device::cpu && src.device() == Device::cpu) {
    std::memcpy(dst.raw(), src.raw(), static_cast<std::size_t>(src.num_bytes()));
    return;
  }
  NMOE_CHECK(stream.device() == Device::cuda, internal, "a copy to or from the GPU was given a CPU stream");
  const bool to_host = dst.device() == Device::cpu, from_host = src.device() == Device::cpu;
  const bool pageable = (to_host || from_host) && detail::cuda_is_pageable(to_host ? dst.raw() : src.raw());
  // Into pageable memory the driver may wait for the stream itself, without a time limit.
  if (to_host && pageable) synchronize(stream);
  detail::cuda_copy(dst.raw(), src.raw(), src.num_bytes(), stream);
  // From pageable memory it may have staged everything, or nothing: a GPU that shares the host's page tables
  // (GH200) reads that memory when the stream gets there.
  if (to_host || (from_host && pageable)) synchronize(stream);
}

Tensor copied_to(Device device, ConstTensorView src, Stream& stream) {
  Tensor result(src.shape(), src.dtype(), device);
  copy(result.view(), src, stream);
  return result;
}

void zero(TensorView dst, Stream& stream) {
  if (dst.num_elements() == 0) return;
  if (dst.device() == Device::cpu) {
    std::memset(dst.raw(), 0, static_cast<std::size_t>(dst.num_bytes()));
  } else {
    detail::cuda_zero(dst.raw(), dst.num_bytes(), stream);
  }
}

OwnedStream::OwnedStream(Device device)
    : stream_(device, device == Device::cuda ? detail::cuda_stream_create() : nullptr) {}
OwnedStream::~OwnedStream() {
  if (stream_.device() == Device::cuda) detail::cuda_stream_destroy(stream_.native());
}

Event::Event(Device device)
    : device_(device), native_(device == Device::cuda ? detail::cuda_event_create() : nullptr) {}
Event::~Event() {
  if (device_ == Device::cuda) detail::cuda_event_destroy(native_);
}
void Event::record(Stream& stream) {
  if (device_ == Device::cuda) detail::cuda_event_record(native_, stream);
}
void Event::make_wait(Stream& stream) const {
  if (device_ == Device::cuda) detail::cuda_stream_wait(stream, native_);
}
void Event::wait(double timeout_s) const {
  if (device_ == Device::cuda) detail::cuda_event_wait(native_, timeout_s);
}
bool Event::reached() const {
  return device_ == Device::cpu || detail::cuda_event_reached(native_);
}

}  // namespace nmoe
