#pragma once
// PEFT-MoE adapters, the format in which the reference code of the method keeps routers and new experts
// (METHOD 5): adapter_config.json and adapter_model.safetensors. Used by convert.
#include <string>

#include "neuronmoe/model/config.hpp"
#include "neuronmoe/model/tensor_sources.hpp"

namespace nmoe::model {

/// Returns the reference code's name of a router,
/// `base_model.model.model.layers.<l>.mlp.moe_router_embedding.weight`, or of a new expert's weight,
/// `.mlp.moe_experts.<e − 1>.{gate,up,down}_proj.weight`.
std::string adapter_name(Role role, int layer, int expert = -1);

/// An adapter as read: the base's config with its experts and top_k, its tensors under our names.
struct Adapter {
  ModelConfig config;
  TensorSources tensors;
};

/// Reads headers and configuration; the number of experts per layer is that of the tensors. `base_hash` is
/// compared with the one an export of ours carries. @throws Error(bad_data) naming file and tensor or field
/// for another peft_type, a pickle, names or shapes that do not belong, experts missing in between, both loss
/// coefficients set
Adapter open_adapter(const std::string& directory, const ModelConfig& base, const std::string& base_hash);

/// Writes adapter_model.safetensors, adapter_config.json and experts.cfg (the list the reference code's
/// scripts source) into `directory`. `tensors` are routers and new experts under our names. Not collective.
void write_adapter(const std::string& directory, const ModelConfig& config, const TensorSources& tensors,
                   const std::string& base_model, const std::string& base_hash);

}  // namespace nmoe::model
