// Parameters of a model, added up.
#include "neuronmoe/model/parameter_count.hpp"

#include "neuronmoe/base/error.hpp"
#include "neuronmoe/model/freeze_plan.hpp"

namespace nmoe::model {

ParameterCount count_parameters(const ModelConfig& model, TrainableSet trainable) {
  ParameterCount count;
  for (const int e : model.num_experts) {
    count.experts += e;
    count.new_experts += e - 1;
    count.moe_layers += e > 1 ? 1 : 0;
  }
  for (const Parameter& p : list_parameters(model, make_freeze_plan(model, trainable))) {
    const std::int64_t n = p.shape.num_elements();
    (p.is_new_expert() ? count.in_new_experts : p.is_router() ? count.routers : count.dense) += n;
    if (p.trainable) count.trainable += n;
    if (!p.is_new_expert() || p.expert < model.top_k) count.active += n;
  }
  return count;
}

ParameterCount count_parameters(ModelConfig model, std::span<const int> num_experts) {
  NMOE_CHECK(static_cast<int>(num_experts.size()) == model.num_layers, config,
             "{} layers were allocated, the model has {}: the input belongs to another model",
             num_experts.size(), model.num_layers);
  model.num_experts.assign(num_experts.begin(), num_experts.end());
  return count_parameters(model);
}

}  // namespace nmoe::model
