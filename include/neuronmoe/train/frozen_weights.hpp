#pragma once
// Proof that frozen weights are frozen (METHOD 5): hashed when a run starts and again before every
// checkpoint. Used by Trainer.
#include <cstdint>
#include <string>
#include <vector>

#include "neuronmoe/comm/communicator.hpp"
#include "neuronmoe/model/decoder.hpp"

namespace nmoe::train {

class FrozenWeights {
 public:
  /// Hashes (SHA-256) every parameter of `decoder` that does not train, by every rank that holds it. Both
  /// outlive this. Collective. @throws Error(internal) naming a tensor of which ranks hold different copies
  FrozenWeights(comm::Communicator& world, const model::Decoder& decoder);
  /// Hashes again. Collective. @throws Error(internal), the same on every rank, naming the first tensor that
  /// changed and the ranks where it did
  void check() const;
  /// Demands that a checkpoint was written over the same frozen weights. Collective. @throws Error(bad_data)
  /// naming both digests
  void require_same_as(const std::string& step_dir) const;
  /// Returns one SHA-256 over names and hashes of all frozen tensors: the same for any layout. "" if none is
  /// frozen.
  const std::string& digest() const { return digest_; }

 private:
  /// Returns the first 60 bits of the SHA-256 of each frozen parameter in name order; −1 where this rank does
  /// not hold it.
  std::vector<std::int64_t> hash() const;

  comm::Communicator& world_;
  Stream& stream_;  // of the decoder
  std::vector<const model::Parameter*> parameters_;
  std::vector<std::int64_t> hashes_;
  std::string digest_;
};

}  // namespace nmoe::train
