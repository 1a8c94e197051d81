#pragma once
// What the dispatcher calls for CUDA tensors when the linked backend has no kernel for them.

namespace nmoe::ops {

/// @throws Error(config) naming the kernel and the reason.
[[noreturn]] void cuda_missing(const char* kernel);

}  // namespace nmoe::ops
