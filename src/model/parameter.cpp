// The table of roles, and the list of parameters of an architecture that follows from it.
#include "neuronmoe/model/parameter.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <utility>

namespace nmoe::model {

namespace {

enum class Extent { none, vocabulary, hidden, intermediate, query, key_value, head, experts };
using enum Extent;
using enum Block;
using enum Initial;

struct Entry {
  RoleProperties properties;
  Extent rows, columns;  // columns: none for a vector
  bool (*present)(const ModelConfig& config, int layer);
};

bool always(const ModelConfig&, int) {
  return true;
}
bool with_own_head(const ModelConfig& config, int) {
  return !config.tie_word_embeddings;
}
bool with_experts(const ModelConfig& config, int layer) {
  return config.is_moe(layer);
}
bool with_attention_bias(const ModelConfig& config, int) {
  return config.attention_bias;
}
bool with_qk_norm(const ModelConfig& config, int) {
  return config.qk_norm;
}

constexpr Entry table[] = {
    {{Role::embedding, "model.embed_tokens.weight", outside, embedding}, vocabulary, hidden, always},
    {{Role::head, "lm_head.weight", outside, embedding}, vocabulary, hidden, with_own_head},
    {{Role::final_norm, "model.norm.weight", outside, ones}, hidden, none, always},
    {{Role::attention_norm, "input_layernorm.weight", attention, ones}, hidden, none, always},
    {{Role::q_weight, "self_attn.q_proj.weight", attention, projection}, query, hidden, always},
    {{Role::k_weight, "self_attn.k_proj.weight", attention, projection}, key_value, hidden, always},
    {{Role::v_weight, "self_attn.v_proj.weight", attention, projection}, key_value, hidden, always},
    {{Role::o_weight, "self_attn.o_proj.weight", attention, residual}, hidden, query, always},
    {{Role::q_bias, "self_attn.q_proj.bias", attention, zeros}, query, none, with_attention_bias},
    {{Role::k_bias, "self_attn.k_proj.bias", attention, zeros}, key_value, none, with_attention_bias},
    {{Role::v_bias, "self_attn.v_proj.bias", attention, zeros}, key_value, none, with_attention_bias},
    {{Role::q_norm, "self_attn.q_norm.weight", attention, ones}, head, none, with_qk_norm},
    {{Role::k_norm, "self_attn.k_norm.weight", attention, ones}, head, none, with_qk_norm},
    {{Role::mlp_norm, "post_attention_layernorm.weight", attention, ones}, hidden, none, always},
    {{Role::gate, "gate_proj.weight", mlp, projection}, intermediate, hidden, always},
    {{Role::up, "up_proj.weight", mlp, projection}, intermediate, hidden, always},
    {{Role::down, "down_proj.weight", mlp, residual}, hidden, intermediate, always},
    {{Role::router, "mlp.router.weight", router, xavier}, experts, hidden, with_experts},
};

constexpr bool in_order_of_roles() {
  for (std::size_t i = 0; i < std::size(table); ++i) {
    if (table[i].properties.role != static_cast<Role>(i)) return false;
  }
  return true;
}
static_assert(in_order_of_roles());

const Entry& entry_of(Role role) {
  return table[static_cast<std::size_t>(role)];
}

std::int64_t size_of(Extent extent, const ModelConfig& config, int layer) {
  switch (extent) {
    case vocabulary:
      return config.vocab_size;
    case intermediate:
      return config.intermediate_size;
    case query:
      return std::int64_t{config.num_attention_heads} * config.head_dim;
    case key_value:
      return std::int64_t{config.num_key_value_heads} * config.head_dim;
    case head:
      return config.head_dim;
    case experts:
      return config.num_experts[static_cast<std::size_t>(layer)];
    default:
      return config.hidden_size;
  }
}

Parameter declare(const ModelConfig& config, const Entry& entry, int layer = -1, int expert = -1) {
  Parameter p;
  p.role = entry.properties.role;
  p.layer = layer;
  p.expert = expert;
  p.name = parameter_name(p.role, layer, expert);
  const std::int64_t rows = size_of(entry.rows, config, layer);
  p.shape = entry.columns == none ? Shape{rows} : Shape{rows, size_of(entry.columns, config, layer)};
  return p;
}

}  // namespace

const RoleProperties& properties(Role role) {
  return entry_of(role).properties;
}

std::string layer_prefix(int layer) {
  return fmt::format("{}layers.{}.", base_prefix, layer);
}

std::string parameter_name(Role role, int layer, int expert) {
  const RoleProperties& p = properties(role);
  if (p.block == Block::outside) return std::string(p.name);
  if (p.block != Block::mlp) return fmt::format("{}{}", layer_prefix(layer), p.name);
  if (expert < 1) return fmt::format("{}mlp.{}", layer_prefix(layer), p.name);
  return fmt::format("{}mlp.experts.{}.{}", layer_prefix(layer), expert, p.name);
}

bool has_parameter(const ModelConfig& config, Role role, int layer) {
  return entry_of(role).present(config, layer);
}

std::vector<Parameter> list_parameters(const ModelConfig& config) {
  std::vector<Parameter> parameters;
  for (const Entry& entry : table) {
    const Block block = entry.properties.block;
    const int num_places = block == Block::outside ? 1 : config.num_layers;
    for (int place = 0; place < num_places; ++place) {
      const int layer = block == Block::outside ? -1 : place;
      if (!entry.present(config, layer)) continue;
      parameters.push_back(declare(config, entry, layer));
      if (block != Block::mlp) continue;
      for (int e = 1; e < config.num_experts[static_cast<std::size_t>(layer)]; ++e)
        parameters.push_back(declare(config, entry, layer, e));
    }
  }
  std::sort(parameters.begin(), parameters.end(),
            [](const Parameter& a, const Parameter& b) { return a.name < b.name; });
  return parameters;
}

}  // namespace nmoe::model
