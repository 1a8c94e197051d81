#pragma once
// What backward has to compute, as data (DESIGN 4.4). Built once from config and trainable set; the decoder
// obeys it.
#include <string>
#include <vector>

#include "neuronmoe/model/config.hpp"
#include "neuronmoe/model/parameter.hpp"

namespace nmoe::model {

/// Backward work of one decoder layer. "weights" = parameter gradients, "input" = gradient with respect to an
/// input.
struct LayerPlan {
  bool attention_weights = false;  ///< q, k, v, o and both norms of the layer
  bool base_mlp_weights = false;   ///< dense MLP (or base expert)
  bool experts = false, router = false;
  bool mlp_input = false;    ///< gradient of the MLP (or MoE) input is needed by something below it
  bool layer_input = false;  ///< gradient of the layer's input is needed, hence attention backward runs
  bool any_backward() const {
    return attention_weights || base_mlp_weights || experts || router || layer_input;
  }
};

struct FreezePlan {
  std::vector<LayerPlan> layers;
  bool embedding = false, head = false, final_norm = false;
  /// Lowest layer whose backward runs; num_layers when none does.
  int lowest_layer = 0;
  std::string to_string() const;
};

/// No weight gradient for anything frozen, no gradient at all below the lowest trainable layer.
FreezePlan make_freeze_plan(const ModelConfig& config, TrainableSet trainable);

}  // namespace nmoe::model
