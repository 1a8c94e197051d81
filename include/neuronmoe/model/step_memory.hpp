#pragma once
// Memory of one micro-batch, and the same without memory for those who only ask how much it is. Used by
// Decoder, its layers and step_cost.
//
// What a layer takes is listed once. Each struct of buffers B has beside it
//   template <typename F> void for_each_buffer(B& buffers, <sizes>, F&& f)
// which calls f(view, Memory, Shape, DType) for every buffer in the order in which they are taken. A pass
// takes them with take_buffers<B>(memory, <sizes>) from a StepMemory, step_cost from a CountedMemory.
#include <algorithm>
#include <cstdint>
#include <memory>

#include "neuronmoe/comm/communicator.hpp"
#include "neuronmoe/tensor/tensor.hpp"

namespace nmoe::model {

/// One tensor on its way to other ranks, on the host in memory that those of the same node can read
/// (Communicator::allocate_send). Grows to the largest tensor and stays.
class SendBuffer {
 public:
  /// `comm` must outlive it.
  SendBuffer(comm::Communicator& comm, Device device) : comm_(comm), device_(device) {}
  /// Returns uninitialized memory, 64-byte aligned; the tensor before it is gone.
  /// @pre no rank reads that any more: its exchange has been reclaimed
  TensorView take(Shape shape, DType dtype);
  /// Reserves memory, so that takes up to there allocate nothing.   @pre as take()
  void reserve(std::int64_t num_bytes);
  /// Returns the size of the largest tensor so far, in bytes.
  std::int64_t peak_bytes() const { return peak_; }

 private:
  comm::Communicator& comm_;
  Device device_;
  std::shared_ptr<void> memory_;
  std::int64_t capacity_ = 0, peak_ = 0;
};

/// Bytes of each memory of a micro-batch.
struct StepBytes {
  std::int64_t saved = 0, scratch = 0, to_experts = 0, from_experts = 0;
  std::int64_t total() const { return saved + scratch + to_experts + from_experts; }
};

/// Where a buffer lies: what each is for says StepMemory.
enum class Memory { saved, scratch, to_experts, from_experts };
/// Returns the memory of what backward reads if it is kept.
inline Memory kept_if(bool keep) {
  return keep ? Memory::saved : Memory::scratch;
}

struct StepMemory {
  Arena saved;              ///< from a layer's forward to its backward
  Arena scratch;            ///< inside one layer's forward or backward; callers rewind to where they began
  SendBuffer to_experts;    ///< rows for the experts of other ranks, gradients of their outputs
  SendBuffer from_experts;  ///< what experts of this rank give back for rows of others

  TensorView take(Memory memory, const Shape& shape, DType dtype);
  StepBytes peak_bytes() const {
    return {saved.peak_bytes(), scratch.peak_bytes(), to_experts.peak_bytes(), from_experts.peak_bytes()};
  }
  /// @pre no view is in use
  void reserve(const StepBytes& bytes) {
    saved.reserve(bytes.saved);
    scratch.reserve(bytes.scratch);
    to_experts.reserve(bytes.to_experts);
    from_experts.reserve(bytes.from_experts);
  }
};

/// Counts what an Arena would have in use.
class CountedArena {
 public:
  using Mark = std::int64_t;
  void add(std::int64_t num_bytes) {
    in_use_ += num_bytes;
    peak_ = std::max(peak_, in_use_);
  }
  Mark mark() const { return in_use_; }
  void rewind(Mark mark) { in_use_ = mark; }
  std::int64_t in_use_bytes() const { return in_use_; }
  std::int64_t peak_bytes() const { return peak_; }

 private:
  std::int64_t in_use_ = 0, peak_ = 0;
};

/// Counts what a StepMemory would have in use, without having any.
struct CountedMemory {
  CountedArena saved, scratch;

  /// Returns {}.
  TensorView take(Memory memory, const Shape& shape, DType dtype);
  StepBytes peak_bytes() const {
    return {saved.peak_bytes(), scratch.peak_bytes(), to_experts_, from_experts_};
  }

 private:
  std::int64_t to_experts_ = 0, from_experts_ = 0;
};

/// Takes what for_each_buffer lists for `Buffers` of these sizes.
template <typename Buffers, typename AnyMemory, typename... Sizes>
Buffers take_buffers(AnyMemory& memory, const Sizes&... sizes) {
  Buffers buffers;
  for_each_buffer(buffers, sizes..., [&](TensorView& view, Memory where, const Shape& shape, DType dtype) {
    view = memory.take(where, shape, dtype);
  });
  return buffers;
}

/// Gives scratch memory back when a scope ends.
template <typename AnyArena>
class ScratchScope {
 public:
  explicit ScratchScope(AnyArena& arena) : arena_(arena), mark_(arena.mark()) {}
  ~ScratchScope() { arena_.rewind(mark_); }
  ScratchScope(const ScratchScope&) = delete;
  ScratchScope& operator=(const ScratchScope&) = delete;

 private:
  AnyArena& arena_;
  typename AnyArena::Mark mark_;
};

}  // namespace nmoe::model
