#pragma once
// Keys and values of the tokens that a sequence has had so far, so that a next token costs one row of every
// layer. Used by Decoder::next_logits and the attention layer.
#include <cstdint>
#include <utility>
#include <vector>

#include "neuronmoe/model/config.hpp"
#include "neuronmoe/tensor/tensor.hpp"

namespace nmoe::model {

/// Owns [capacity, G, d] for k, after the rotary embedding, and for v, for every layer.
class KeyValueCache {
 public:
  /// @param capacity most tokens   @param dtype,device those of the decoder
  KeyValueCache(const ModelConfig& config, DType dtype, std::int64_t capacity, Device device);

  std::int64_t length() const { return length_; }  ///< tokens whose pass is over
  std::int64_t capacity() const { return capacity_; }
  /// Returns all rows of a layer's keys and values.
  std::pair<TensorView, TensorView> layer(int l) {
    const auto i = static_cast<std::size_t>(l);
    return {keys_[i].view(), values_[i].view()};
  }
  /// Says that all layers have the rows of `num_tokens` more.
  void advance(std::int64_t num_tokens) { length_ += num_tokens; }
  /// Begins a new sequence.
  void clear() { length_ = 0; }

 private:
  std::vector<Tensor> keys_, values_;
  std::int64_t length_ = 0, capacity_ = 0;
};

}  // namespace nmoe::model
