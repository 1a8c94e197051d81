#include "neuronmoe/model/freeze_plan.hpp"

#include <fmt/format.h>

namespace nmoe::model {

FreezePlan make_freeze_plan(const ModelConfig& config, TrainableSet trainable) {
  FreezePlan plan;
  const bool all = trainable == TrainableSet::all;
  plan.embedding = plan.head = plan.final_norm = all;
  plan.layers.resize(static_cast<std::size_t>(config.num_layers));
  bool below = all;  // is anything trainable below the current layer? (the embedding, to begin with)
  plan.lowest_layer = config.num_layers;
  for (int l = 0; l < config.num_layers; ++l) {
    LayerPlan& layer = plan.layers[static_cast<std::size_t>(l)];
    const bool moe = config.is_moe(l);
    layer.attention_weights = layer.base_mlp_weights = all;
    layer.experts = moe && (all || trainable == TrainableSet::experts_and_routers);
    layer.router = moe && trainable != TrainableSet::none;
    layer.layer_input = below;
    layer.mlp_input = below || layer.attention_weights;
    below = below || layer.attention_weights || layer.experts || layer.router;
    if (layer.any_backward() && plan.lowest_layer == config.num_layers) plan.lowest_layer = l;
  }
  return plan;
}

std::string FreezePlan::to_string() const {
  std::string text = fmt::format("embedding {}, head {}, final norm {}; backward stops at layer {}\n",
                                 embedding, head, final_norm, lowest_layer);
  for (std::size_t l = 0; l < layers.size(); ++l) {
    const LayerPlan& p = layers[l];
    text += fmt::format("layer {}: gradients of{}{}{}{}{}{}{}\n", l, p.attention_weights ? " attention" : "",
                        p.base_mlp_weights ? " mlp" : "", p.experts ? " experts" : "",
                        p.router ? " router" : "", p.mlp_input ? " mlp-input" : "",
                        p.layer_input ? " layer-input" : "", p.any_backward() ? "" : " nothing");
  }
  return text;
}

}  // namespace nmoe::model
