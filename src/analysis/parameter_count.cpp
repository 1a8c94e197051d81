// Parameters of a dense model and of an allocation, by formula.
#include "neuronmoe/analysis/parameter_count.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "neuronmoe/base/error.hpp"

namespace nmoe::analysis {

std::int64_t dense_parameters(const model::ModelConfig& m) {
  const std::int64_t d = m.hidden_size, f = m.intermediate_size;
  const std::int64_t q = std::int64_t{m.num_attention_heads} * m.head_dim;
  const std::int64_t kv = std::int64_t{m.num_key_value_heads} * m.head_dim;
  std::int64_t layer = 2 * d + q * d + 2 * kv * d + d * q + 3 * d * f;
  if (m.attention_bias) layer += q + 2 * kv;
  return m.num_layers * layer + d + m.vocab_size * d * (m.tie_word_embeddings ? 1 : 2);
}

ParameterCount count_parameters(const model::ModelConfig& model, std::span<const int> num_experts) {
  NMOE_CHECK(static_cast<int>(num_experts.size()) == model.num_layers, config,
             "{} layers were allocated, the model has {}: the input belongs to another model",
             num_experts.size(), model.num_layers);
  ParameterCount count;
  count.dense = count.active = dense_parameters(model);
  count.expert = 3 * model.hidden_size * model.intermediate_size;
  for (const int experts : num_experts) {
    count.experts += experts;
    if (experts < 2) continue;
    ++count.moe_layers;
    count.new_experts += experts - 1;
    count.routers += experts * model.hidden_size;
    count.active += (std::min(model.top_k, experts) - 1) * count.expert;
  }
  count.active += count.routers;
  return count;
}

std::vector<std::string> compare_parameters(const ParameterCount& counts, const ParameterCount& baseline,
                                            const std::string& baseline_name) {
  const auto line = [&](const char* what, std::int64_t value, std::int64_t other) {
    const std::string change =
        other == 0 ? "no change to speak of"
                   : fmt::format("{:+.1f} %",
                                 100.0 * (static_cast<double>(value) / static_cast<double>(other) - 1.0));
    return fmt::format("{}: {} ({}: {}, {})", what, value, baseline_name, other, change);
  };
  return {line("experts, base included", counts.experts, baseline.experts),
          line("new experts", counts.new_experts, baseline.new_experts),
          line("new parameters", counts.new_parameters(), baseline.new_parameters()),
          line("router parameters", counts.routers, baseline.routers),
          line("total parameters", counts.total(), baseline.total()),
          line("active parameters per token", counts.active, baseline.active)};
}

}  // namespace nmoe::analysis
