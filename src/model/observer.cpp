// The widths of the sites.
#include "neuronmoe/model/observer.hpp"

namespace nmoe::model {

std::int64_t projection_width(const ModelConfig& config, Projection projection) {
  switch (projection) {
    case Projection::gate:
    case Projection::up:
      return config.intermediate_size;
    case Projection::q:
      return std::int64_t{config.num_attention_heads} * config.head_dim;
    case Projection::k:
    case Projection::v:
      return std::int64_t{config.num_key_value_heads} * config.head_dim;
    case Projection::down:
    case Projection::o:
    case Projection::mlp_input:
      break;
  }
  return config.hidden_size;
}

}  // namespace nmoe::model
