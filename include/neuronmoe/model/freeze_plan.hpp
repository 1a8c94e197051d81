#pragma once
// What backward has to compute and what forward keeps for it, as data (DESIGN 4.4). Built once from config
// and trainable set; the decoder, the optimizer and `neuronmoe plan` all read this one object.
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
  int first_trained_expert = 1;  ///< with `experts`: those from here on; the ones below are frozen
  bool mlp_input = false;        ///< gradient of the MLP (or MoE) input is needed by something below it
  bool layer_input = false;      ///< gradient of the layer's input is needed, hence attention backward runs
  bool any_backward() const {
    return attention_weights || base_mlp_weights || experts || router || layer_input;
  }
  /// Returns whether any gradient flows into base or experts of a MoE layer.
  bool any_expert_gradient() const { return experts || base_mlp_weights || mlp_input; }
  /// What forward keeps. Normed inputs are never kept: backward norms the residual again.
  bool keeps_attention() const { return layer_input || attention_weights; }  ///< q, k, v, o, log-sum-exp
  bool keeps_base_mlp() const { return mlp_input || base_mlp_weights; }      ///< gate and up of the base
  bool keeps_experts() const { return mlp_input || experts; }                ///< gate and up of new experts
};

/// Backward runs in segments: 0 is lm-head and final norm, then the layers from the top down, last the
/// embedding.
struct FreezePlan {
  std::vector<LayerPlan> layers;
  bool embedding = false, head = false, final_norm = false;
  bool tied_head = true;  ///< lm-head and embedding are one tensor
  /// Lowest layer whose backward runs; num_layers when none does.
  int lowest_layer = 0;

  int num_segments() const { return static_cast<int>(layers.size()) + 2; }
  int segment_of_layer(int layer) const { return static_cast<int>(layers.size()) - layer; }
  int embedding_segment() const { return num_segments() - 1; }
  /// Returns whether a parameter's gradient is computed.
  bool trains(const Parameter& parameter) const;
  /// Returns the segment after which a parameter's gradient is complete: only then may it be reduced (a tied
  /// embedding is written by segment 0 and by the last one).
  int last_writer(const Parameter& parameter) const;
  /// Returns whether the first and the last segment both add to its gradient. @pre its last_writer is set
  bool written_twice(const Parameter& p) const { return tied_head && p.last_writer == embedding_segment(); }
  /// Returns one line per segment: gradients, what is kept, and which gradients are complete after it.
  std::string to_string() const;
};

/// Makes the plan: no weight gradient for anything frozen, no gradient at all below the lowest trainable
/// layer.
FreezePlan make_freeze_plan(const ModelConfig& config, TrainableSet trainable);

/// Returns every parameter of the model, sorted by name, without memory: the canonical order of files, norms
/// and shards. `trainable` and `last_writer` are as the plan says.
std::vector<Parameter> list_parameters(const ModelConfig& config, const FreezePlan& plan);

}  // namespace nmoe::model
