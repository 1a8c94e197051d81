// Which gradients backward computes for a set of trainable parameters, and the listing of it.
#include "neuronmoe/model/freeze_plan.hpp"

#include <fmt/format.h>

#include <map>

namespace nmoe::model {

FreezePlan make_freeze_plan(const ModelConfig& config, TrainableSet trainable) {
  FreezePlan plan;
  const bool all = trainable == TrainableSet::all;
  plan.embedding = plan.head = plan.final_norm = all;
  plan.tied_head = config.tie_word_embeddings;
  plan.layers.resize(static_cast<std::size_t>(config.num_layers));
  bool below = all;  // is anything trainable below the current layer? (the embedding, to begin with)
  plan.lowest_layer = config.num_layers;
  for (int l = 0; l < config.num_layers; ++l) {
    LayerPlan& layer = plan.layers[static_cast<std::size_t>(l)];
    const bool moe = config.is_moe(l);
    layer.attention_weights = layer.base_mlp_weights = all;
    layer.first_trained_expert = all ? 1 : config.first_trained_expert(l);
    layer.experts = layer.first_trained_expert < config.num_experts[static_cast<std::size_t>(l)] &&
                    (all || trainable == TrainableSet::experts_and_routers);
    layer.router = moe && trainable != TrainableSet::none;
    layer.layer_input = below;
    layer.mlp_input = below || layer.attention_weights;
    below = below || layer.attention_weights || layer.experts || layer.router;
    if (layer.any_backward() && plan.lowest_layer == config.num_layers) plan.lowest_layer = l;
  }
  return plan;
}

bool FreezePlan::trains(const Parameter& p) const {
  if (p.role == Role::embedding) return embedding;
  if (p.role == Role::head) return head;
  if (p.role == Role::final_norm) return final_norm;
  const LayerPlan& layer = layers[static_cast<std::size_t>(p.layer)];
  if (p.is_router()) return layer.router;
  if (p.is_new_expert()) return layer.experts && p.expert >= layer.first_trained_expert;
  return properties(p.role).block == Block::mlp ? layer.base_mlp_weights : layer.attention_weights;
}

int FreezePlan::last_writer(const Parameter& p) const {
  if (!trains(p)) return -1;
  if (p.layer >= 0) return segment_of_layer(p.layer);
  return p.role == Role::embedding ? embedding_segment() : 0;
}

namespace {

std::string list(std::initializer_list<std::pair<bool, std::string>> items) {
  std::string text;
  for (const auto& [present, name] : items) {
    if (present) text += (text.empty() ? "" : ", ") + name;
  }
  return text.empty() ? "nothing" : text;
}

}  // namespace

std::string FreezePlan::to_string() const {
  std::string text =
      fmt::format("segment 0, lm-head and final norm: weight gradients: {}; complete after it: {}\n",
                  list({{head, "head"}, {final_norm, "final norm"}}),
                  list({{head && !tied_head, "head"}, {final_norm, "final norm"}}));
  const int num_layers = static_cast<int>(layers.size());
  for (int l = num_layers - 1; l >= lowest_layer; --l) {
    const LayerPlan& p = layers[static_cast<std::size_t>(l)];
    const bool some_are_old = p.experts && p.first_trained_expert > 1;
    const std::string new_experts =
        some_are_old ? fmt::format("experts from {} on", p.first_trained_expert) : "new experts";
    const std::string weights = list({{p.attention_weights, "attention and norms"},
                                      {p.base_mlp_weights, "mlp"},
                                      {p.experts, new_experts},
                                      {p.router, "router"}});
    text += fmt::format(
        "segment {}, layer {}: weight gradients: {}; input "
        "gradients: {}; kept by forward: {}; complete after it: {}\n",
        segment_of_layer(l), l, weights,
        list({{p.mlp_input, "mlp input"}, {p.layer_input, "layer input (through attention)"}}),
        list({{true, "residual after attention"},
              {p.keeps_attention(), "layer input, q, k, v, o"},
              {p.keeps_base_mlp(), "gate and up of the mlp"},
              {p.router, "routing and expert outputs"},
              {p.router && p.keeps_experts(), "gate and up of new experts"}}),
        weights);
  }
  if (embedding) {
    text +=
        fmt::format("segment {}, embedding: weight gradients: embedding; complete after it: embedding{}\n",
                    embedding_segment(), tied_head ? " (also written by segment 0: one tensor)" : "");
  }
  if (lowest_layer == num_layers) return text + "nothing trains: no backward\n";
  return text + (lowest_layer > 0 || !layers.front().layer_input
                     ? fmt::format("backward stops at layer {}: nothing below it trains\n", lowest_layer)
                     : std::string("backward reaches the embedding\n"));
}

std::vector<Parameter> list_parameters(const ModelConfig& config, const FreezePlan& plan) {
  std::vector<Parameter> parameters = list_parameters(config);
  for (Parameter& p : parameters) {
    p.trainable = plan.trains(p);
    p.last_writer = plan.last_writer(p);
  }
  return parameters;
}

}  // namespace nmoe::model
