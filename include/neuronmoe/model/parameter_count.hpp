#pragma once
// What a model has in parameters: sums over its list of parameters. Used by `allocate`, `plan` and reports.
#include <cstdint>
#include <span>

#include "neuronmoe/model/config.hpp"
#include "neuronmoe/model/parameter.hpp"

namespace nmoe::model {

/// A layer with E > 1 has E − 1 new experts and a router; a token visits min(top_k, E) experts of it.
struct ParameterCount {
  int experts = 0, moe_layers = 0, new_experts = 0;  ///< the first with the base of every layer
  std::int64_t dense = 0;  ///< embeddings (once if tied), norms, projections, biases
  std::int64_t in_new_experts = 0, routers = 0;
  std::int64_t trainable = 0;  ///< of all
  std::int64_t active = 0;     ///< that a token meets, routers included
  std::int64_t total() const { return dense + in_new_experts + routers; }
};
ParameterCount count_parameters(const ModelConfig& model, TrainableSet trainable = TrainableSet::none);
/// Counts the same model with other numbers of experts, [L], base included.
/// @throws Error(config) if L is not the model's
ParameterCount count_parameters(ModelConfig model, std::span<const int> num_experts);

}  // namespace nmoe::model
