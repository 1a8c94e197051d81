#pragma once
// Memory of one micro-batch. Used by Decoder and its layers.
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
  /// Uninitialised memory, 64-byte aligned; the tensor before it is gone.
  /// @pre no rank reads that any more: its exchange has been reclaimed
  TensorView take(Shape shape, DType dtype);
  /// So that takes up to there allocate nothing.   @pre as take()
  void reserve(std::int64_t num_bytes);
  /// Of the largest tensor so far.
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

struct StepMemory {
  Arena saved;              ///< from a layer's forward to its backward
  Arena scratch;            ///< inside one layer's forward or backward; callers rewind to where they began
  SendBuffer to_experts;    ///< rows for the experts of other ranks, gradients of their outputs
  SendBuffer from_experts;  ///< what experts of this rank give back for rows of others

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

/// Gives scratch memory back when a scope ends.
class ScratchScope {
 public:
  explicit ScratchScope(Arena& arena) : arena_(arena), mark_(arena.mark()) {}
  ~ScratchScope() { arena_.rewind(mark_); }
  ScratchScope(const ScratchScope&) = delete;
  ScratchScope& operator=(const ScratchScope&) = delete;

 private:
  Arena& arena_;
  Arena::Mark mark_;
};

}  // namespace nmoe::model
