#pragma once
// The CUDA runtime calls behind tensor/device.hpp: cuda/device.cpp makes them, no_cuda/device.cpp says they
// cannot be made.
#include <cstdint>

#include "neuronmoe/tensor/stream.hpp"

namespace nmoe::detail {

void cuda_copy(void* to, const void* from, std::int64_t bytes, Stream& stream);
/// Whether the driver does not know `host`: neither PinnedMemory nor memory of a GPU.
bool cuda_is_pageable(const void* host);
void cuda_zero(void* to, std::int64_t bytes, Stream& stream);
void* cuda_pinned_allocate(std::int64_t bytes);
void cuda_pinned_free(void* pointer) noexcept;
void* cuda_stream_create();
void cuda_stream_destroy(void* native) noexcept;
void* cuda_event_create();
void cuda_event_destroy(void* native) noexcept;
void cuda_event_record(void* native, Stream& stream);
bool cuda_event_reached(void* native);
void cuda_event_wait(void* native, double timeout_s);
void cuda_stream_wait(Stream& stream, void* native_event);

}  // namespace nmoe::detail
