#pragma once
// Float32 buffers that are used again instead of being allocated. Used by ShardGroup.
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "neuronmoe/tensor/tensor.hpp"

namespace nmoe::train {

/// Buffers of one device, for work in the order of one stream: what comes back may be handed out again while
/// work on it is still queued there. Sizes repeat from step to step, so a second step allocates nothing.
class BufferPool {
 public:
  explicit BufferPool(Device device) : device_(device) {}
  /// Returns a buffer of `size` elements with unspecified contents.
  Tensor take(std::int64_t size) {
    std::vector<Tensor>& free = free_[size];
    if (free.empty()) return Tensor({size}, DType::float32, device_);
    Tensor buffer = std::move(free.back());
    free.pop_back();
    return buffer;
  }
  void give(Tensor buffer) {
    std::vector<Tensor>& free = free_[buffer.num_elements()];
    free.push_back(std::move(buffer));
  }
  /// Returns the bytes of the buffers currently in the pool.
  std::int64_t num_bytes() const {
    std::int64_t bytes = 0;
    for (const auto& [size, free] : free_)
      bytes += size * static_cast<std::int64_t>(free.size() * sizeof(float));
    return bytes;
  }

 private:
  Device device_;
  std::map<std::int64_t, std::vector<Tensor>> free_;
};

}  // namespace nmoe::train
