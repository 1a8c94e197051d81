// Memory of the keys and values of one sequence.
#include "neuronmoe/model/key_value_cache.hpp"

namespace nmoe::model {

KeyValueCache::KeyValueCache(const ModelConfig& config, DType dtype, std::int64_t capacity, Device device)
    : capacity_(capacity) {
  const Shape shape{capacity, config.num_key_value_heads, config.head_dim};
  for (int l = 0; l < config.num_layers; ++l) {
    keys_.emplace_back(shape, dtype, device);
    values_.emplace_back(shape, dtype, device);
  }
}

}  // namespace nmoe::model
