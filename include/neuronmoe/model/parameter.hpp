#pragma once
// Parameters of a decoder. One list rules initialization, gradient reduction, clipping, AdamW, checkpoints
// and export: `Decoder::parameters()`, walked by `for_each_parameter`. What a parameter is, its role says;
// nobody asks its name. Used by train and io of models.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "neuronmoe/model/config.hpp"
#include "neuronmoe/tensor/tensor.hpp"

namespace nmoe::model {

/// What is updated during a run (METHOD 5, "Trainable tensors").
enum class TrainableSet { none, all, experts_and_routers, routers };

/// What a parameter is to the decoder; layer and expert say which one. Their table is in parameter.cpp.
enum class Role {
  embedding,
  head,
  final_norm,
  attention_norm,
  q_weight,
  k_weight,
  v_weight,
  o_weight,
  q_bias,
  k_bias,
  v_bias,
  q_norm,
  k_norm,
  mlp_norm,
  gate,
  up,
  down,
  router
};

/// The part of the decoder that a role belongs to: outside the layers; once per layer with attention (both
/// norms of the layer included); once per expert of a layer; once per layer with experts.
enum class Block { outside, attention, mlp, router };

/// What a parameter starts from (Decoder::initialise_dense, Decoder::upcycle). `residual`: a projection whose
/// output is added to the residual stream.
enum class Initial { ones, zeros, embedding, projection, residual, xavier };

struct RoleProperties {
  Role role;
  std::string_view name;  ///< Hugging Face's; in a layer, what follows the prefix of layer and expert
  Block block;
  Initial initial;
};
const RoleProperties& properties(Role role);

/// Prefix of every name but the head's.
inline constexpr std::string_view base_prefix = "model.";
/// Returns the prefix of everything in a layer: `model.layers.<l>.`
std::string layer_prefix(int layer);
/// Returns the name of a parameter, Hugging Face's; router: `model.layers.<l>.mlp.router.weight`; new expert
/// e >= 1: `model.layers.<l>.mlp.experts.<e>.{gate,up,down}_proj.weight`.
std::string parameter_name(Role role, int layer = -1, int expert = -1);
/// Returns whether an architecture has parameters of this role in this layer (-1: outside the layers).
bool has_parameter(const ModelConfig& config, Role role, int layer = -1);

/// A named tensor of the model. Every rank lists every parameter; `value` is valid only where the rank holds
/// it (experts of other expert-parallel ranks are not held).
struct Parameter {
  Role role = Role::embedding;
  int layer = -1;    ///< −1 outside the decoder layers
  int expert = -1;   ///< new expert id (>= 1), or −1
  std::string name;  ///< parameter_name(role, layer, expert)
  Shape shape;
  bool trainable = false;
  int last_writer = -1;  ///< backward segment that completes the gradient (FreezePlan); −1 when frozen
  Tensor value;          ///< model dtype
  /// acc dtype, [leaves, shape...] flattened as [leaves, num_elements]; only for trainable parameters held
  /// here, else {}. One leaf per source micro-batch of a micro-step: 1 for replicated parameters,
  /// expert_parallel_size for experts. Memory belongs to the decoder (see Decoder::share_gradients).
  TensorView grad;

  bool held() const { return value.valid(); }
  bool is_router() const { return role == Role::router; }
  bool is_new_expert() const { return expert >= 1; }
  /// Returns whether the dense base has it.
  bool is_dense() const { return !is_router() && !is_new_expert(); }
};

template <typename Model, typename F>
void for_each_parameter(Model& model, F&& f) {
  for (auto& parameter : model.parameters()) f(parameter);
}

/// Returns the names and shapes of all parameters of an architecture, sorted by name; nothing is allocated.
std::vector<Parameter> list_parameters(const ModelConfig& config);

/// A weight as layers see it: value, and where its gradient leaf goes ({} when frozen).
struct Weight {
  ConstTensorView value;
  TensorView grad;
};

}  // namespace nmoe::model
