// The list of parameters of an architecture.
#include "neuronmoe/model/parameter.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace nmoe::model {

std::vector<Parameter> list_parameters(const ModelConfig& config) {
  std::vector<Parameter> parameters;
  const std::int64_t d = config.hidden_size, f = config.intermediate_size, v = config.vocab_size;
  const std::int64_t q = static_cast<std::int64_t>(config.num_attention_heads) * config.head_dim;
  const std::int64_t kv = static_cast<std::int64_t>(config.num_key_value_heads) * config.head_dim;
  const auto declare = [&](std::string name, Shape shape, int layer = -1, int expert = -1,
                           bool router = false) {
    Parameter p;
    p.name = std::move(name);
    p.shape = shape;
    p.layer = layer;
    p.expert = expert;
    p.is_router = router;
    parameters.push_back(std::move(p));
  };
  declare("model.embed_tokens.weight", {v, d});
  declare("model.norm.weight", {d});
  if (!config.tie_word_embeddings) declare("lm_head.weight", {v, d});
  for (int l = 0; l < config.num_layers; ++l) {
    const std::string layer = fmt::format("model.layers.{}.", l);
    declare(layer + "input_layernorm.weight", {d}, l);
    declare(layer + "post_attention_layernorm.weight", {d}, l);
    declare(layer + "self_attn.q_proj.weight", {q, d}, l);
    declare(layer + "self_attn.k_proj.weight", {kv, d}, l);
    declare(layer + "self_attn.v_proj.weight", {kv, d}, l);
    declare(layer + "self_attn.o_proj.weight", {d, q}, l);
    if (config.attention_bias) {
      declare(layer + "self_attn.q_proj.bias", {q}, l);
      declare(layer + "self_attn.k_proj.bias", {kv}, l);
      declare(layer + "self_attn.v_proj.bias", {kv}, l);
    }
    const int num_experts = config.num_experts[static_cast<std::size_t>(l)];
    for (int e = 0; e < num_experts; ++e) {
      const std::string mlp = e == 0 ? layer + "mlp." : fmt::format("{}mlp.experts.{}.", layer, e);
      const int expert = e == 0 ? -1 : e;
      declare(mlp + "gate_proj.weight", {f, d}, l, expert);
      declare(mlp + "up_proj.weight", {f, d}, l, expert);
      declare(mlp + "down_proj.weight", {d, f}, l, expert);
    }
    if (num_experts > 1) declare(layer + "mlp.router.weight", {num_experts, d}, l, -1, true);
  }
  std::sort(parameters.begin(), parameters.end(),
            [](const Parameter& a, const Parameter& b) { return a.name < b.name; });
  return parameters;
}

}  // namespace nmoe::model
