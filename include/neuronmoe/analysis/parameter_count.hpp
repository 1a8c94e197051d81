#pragma once
// What an allocation costs in parameters, beside its count of experts (METHOD 3.6): pure arithmetic for
// `allocate`.
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "neuronmoe/model/config.hpp"

namespace nmoe::analysis {

/// Parameters of the dense model: embeddings (once if tied), norms, projections, biases.
std::int64_t dense_parameters(const model::ModelConfig& model);

/// One allocation in parameters. A layer with E > 1 has E − 1 new experts and a router of E·hidden weights; a
/// token visits min(top_k, E) experts of it.
struct ParameterCount {
  int experts = 0, moe_layers = 0, new_experts = 0;
  std::int64_t dense = 0, expert = 0;  ///< `expert`: of one expert, 3·hidden·intermediate
  std::int64_t routers = 0;
  std::int64_t new_parameters() const { return new_experts * expert; }
  std::int64_t total() const { return dense + new_parameters() + routers; }
  std::int64_t active = 0;  ///< per token, routers included
};
/// @param num_experts [L], base included   @throws Error(config) if L is not the model's
ParameterCount count_parameters(const model::ModelConfig& model, std::span<const int> num_experts);

/// Lines that set `counts` beside `baseline`: experts, new experts, new, total and active parameters, each
/// with its change in percent. The paper's reductions are the first line only.
std::vector<std::string> compare_parameters(const ParameterCount& counts, const ParameterCount& baseline,
                                            const std::string& baseline_name);

}  // namespace nmoe::analysis
