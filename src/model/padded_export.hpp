#pragma once
// A mixture of experts as a model that transformers has a class for (Ernie4_5_Moe), padded to equal layers.
// Used by convert.
#include <string>

#include "neuronmoe/model/config.hpp"
#include "neuronmoe/model/tensor_sources.hpp"

namespace nmoe::model {

struct PaddedModel {
  std::string config_json;  ///< without the element type
  TensorSources tensors;    ///< under the names of the class; reading one holds a few MiB
  std::string layout;       ///< for people: layers, experts before and after, factor of the FFN weights
};

/// Returns `config` as the class holds it exactly. The class has one number of experts for all layers of a
/// range: a layer with fewer gets experts of zeros that a selection bias of -2 keeps from being chosen
/// (probabilities are at most 1, and weights are normalized over the chosen ones); a dense layer in the range
/// gets top_k copies of its FFN, each with weight 1/top_k. Rows of q and k are reordered from halves to
/// pairs.
/// @param dense,experts tensors under the names of model::Parameter   @param where named in messages
/// @throws Error(config) naming what the class cannot hold
PaddedModel pad_experts(const ModelConfig& config, const TensorSources& dense, const TensorSources& experts,
                        const std::string& where);

}  // namespace nmoe::model
