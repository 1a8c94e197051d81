#pragma once
// Cosines and sines of the rotary embedding, grown to the longest sequence seen. Used by Decoder.
#include "neuronmoe/model/config.hpp"
#include "neuronmoe/tensor/stream.hpp"
#include "neuronmoe/tensor/tensor.hpp"

namespace nmoe::model {

/// Angle of pair i at position p: p · inv_freq_i, inv_freq_i = theta^(−2i/d) after `rope_scaling` (default,
/// linear, llama3).
class RopeTable {
 public:
  RopeTable(const ModelConfig& config, DType acc);
  /// Makes positions [0, num_positions) available on the stream's device.
  void reserve(std::int64_t num_positions, Stream& stream);
  ConstTensorView cos() const { return cos_.view(); }  ///< [P, d/2] acc
  ConstTensorView sin() const { return sin_.view(); }

 private:
  std::vector<double> inv_freq_;
  DType acc_;
  std::int64_t num_positions_ = 0;
  Tensor cos_, sin_;
};

/// Returns the inverse frequencies, exposed for tests: [d/2].
std::vector<double> rope_inverse_frequencies(const ModelConfig& config);

}  // namespace nmoe::model
