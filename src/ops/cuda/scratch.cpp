// Device memory of kernels, per thread, stream and purpose.
#include "scratch.hpp"

#include <algorithm>
#include <map>
#include <memory>
#include <utility>

namespace nmoe::ops::cuda {

namespace {
struct Free {
  void operator()(void* pointer) const noexcept { cuda_free(pointer); }
};
struct Buffer {
  std::unique_ptr<void, Free> memory;
  std::int64_t bytes = 0;
};
}  // namespace

void* scratch_bytes(Stream& stream, Scratch purpose, std::int64_t bytes) {
  thread_local std::map<std::pair<void*, Scratch>, Buffer>
      buffers;  // like the CPU's scratch: one set per thread
  Buffer& buffer = buffers[{stream.native(), purpose}];
  if (buffer.bytes < bytes || !buffer.memory) {
    buffer.memory.reset();  // cudaFree waits for the work that still uses it
    buffer.bytes = std::max<std::int64_t>(bytes, 256);
    buffer.memory.reset(cuda_allocate(buffer.bytes));
  }
  return buffer.memory.get();
}

}  // namespace nmoe::ops::cuda
