#pragma once
// Parameters of a decoder. One list rules initialisation, gradient reduction, clipping, AdamW, checkpoints
// and export: `Decoder::parameters()`, walked by `for_each_parameter`. Used by train and io of models.
#include <cstdint>
#include <string>
#include <vector>

#include "neuronmoe/model/config.hpp"
#include "neuronmoe/tensor/tensor.hpp"

namespace nmoe::model {

/// What is updated during a run (METHOD 5, "Trainable tensors").
enum class TrainableSet { none, all, experts_and_routers, routers };

/// A named tensor of the model. Names are Hugging Face's; router: `model.layers.<l>.mlp.router.weight` [E,
/// D]; new expert e >= 1: `model.layers.<l>.mlp.experts.<e>.{gate,up,down}_proj.weight`. Every rank lists
/// every parameter; `value` is valid only where the rank holds it (experts of other expert-parallel ranks are
/// not held).
struct Parameter {
  std::string name;
  Shape shape;
  int layer = -1;   ///< −1 outside the decoder layers
  int expert = -1;  ///< new expert id (>= 1), or −1
  bool is_router = false;
  bool trainable = false;
  int last_writer = -1;  ///< backward segment that completes the gradient (FreezePlan); −1 when frozen
  Tensor value;          ///< model dtype
  /// acc dtype, [leaves, shape...] flattened as [leaves, num_elements]; only for trainable parameters held
  /// here, else {}. One leaf per source micro-batch of a micro-step: 1 for replicated parameters,
  /// expert_parallel_size for experts. Memory belongs to the decoder (see Decoder::share_gradients).
  TensorView grad;

  bool held() const { return value.valid(); }
  bool is_new_expert() const { return expert >= 1; }
};

template <typename Model, typename F>
void for_each_parameter(Model& model, F&& f) {
  for (auto& parameter : model.parameters()) f(parameter);
}

/// Names and shapes of all parameters of an architecture, sorted by name; nothing is allocated.
std::vector<Parameter> list_parameters(const ModelConfig& config);

/// A weight as layers see it: value, and where its gradient leaf goes ({} when frozen).
struct Weight {
  ConstTensorView value;
  TensorView grad;
};

}  // namespace nmoe::model
