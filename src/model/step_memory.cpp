// Send buffers of a micro-batch, grown as its exchanges ask.
#include "neuronmoe/model/step_memory.hpp"

#include <algorithm>

namespace nmoe::model {

TensorView SendBuffer::take(Shape shape, DType dtype) {
  constexpr std::int64_t alignment = 64;
  const std::int64_t num_bytes =
      (std::max<std::int64_t>(1, shape.num_elements() * size_of(dtype)) + alignment - 1) / alignment *
      alignment;
  peak_ = std::max(peak_, num_bytes);
  // A step that needs a little more than the one before is likely to be followed by others.
  if (num_bytes > capacity_) reserve(std::max(num_bytes, capacity_ + capacity_ / 4));
  return {memory_.get(), dtype, shape, device_};
}

void SendBuffer::reserve(std::int64_t num_bytes) {
  if (num_bytes <= capacity_) return;
  memory_.reset();  // first, so that the new memory may lie where the old was
  if (device_ == Device::cpu) {
    memory_ = comm_.allocate_send(num_bytes);
  } else {
    auto tensor = std::make_shared<Tensor>(Shape{num_bytes}, DType::uint8, device_);
    void* data = tensor->view().raw();
    memory_ = std::shared_ptr<void>(std::move(tensor), data);
  }
  capacity_ = num_bytes;
}

}  // namespace nmoe::model
