#pragma once
// Memory of one micro-batch. Used by Decoder and its layers.
#include "neuronmoe/tensor/tensor.hpp"

namespace nmoe::model {

struct StepMemory {
  Arena saved;    ///< from a layer's forward to its backward
  Arena scratch;  ///< inside one layer's forward or backward; callers rewind to where they began
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
