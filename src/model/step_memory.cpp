// The memories of a micro-batch: taken from, and counted.
#include "neuronmoe/model/step_memory.hpp"

#include <algorithm>

namespace nmoe::model {

TensorView SendBuffer::take(Shape shape, DType dtype) {
  const std::int64_t num_bytes = Arena::bytes_of(shape, dtype);
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

TensorView StepMemory::take(Memory memory, const Shape& shape, DType dtype) {
  switch (memory) {
    case Memory::saved:
      return saved.take(shape, dtype);
    case Memory::scratch:
      return scratch.take(shape, dtype);
    case Memory::to_experts:
      return to_experts.take(shape, dtype);
    case Memory::from_experts:
      return from_experts.take(shape, dtype);
  }
  return {};
}

TensorView CountedMemory::take(Memory memory, const Shape& shape, DType dtype) {
  const std::int64_t num_bytes = Arena::bytes_of(shape, dtype);
  switch (memory) {
    case Memory::saved:
      saved.add(num_bytes);
      break;
    case Memory::scratch:
      scratch.add(num_bytes);
      break;
    case Memory::to_experts:
      to_experts_ = std::max(to_experts_, num_bytes);
      break;
    case Memory::from_experts:
      from_experts_ = std::max(from_experts_, num_bytes);
      break;
  }
  return {};
}

}  // namespace nmoe::model
