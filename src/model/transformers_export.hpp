#pragma once
// A mixture of experts as a directory that transformers loads: padded to a class that it has (Ernie4_5_Moe),
// or in its exact size with the Python that runs it. Used by convert.
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "neuronmoe/model/config.hpp"
#include "neuronmoe/model/tensor_sources.hpp"

namespace nmoe::model {

struct TextFile {
  std::string name, text;
};

struct TransformersModel {
  std::string config_json;      ///< without the element type
  TensorSources tensors;        ///< under the names of the class; reading one holds a few MiB
  std::string layout;           ///< for people: layers, experts before and after, factor of the FFN weights
  std::string note;             ///< for the model card: what is to be known about this form
  std::vector<TextFile> files;  ///< beside the weights
};

/// Returns `config` as the class holds it exactly. The class has one number of experts for all layers of a
/// range: a layer with fewer gets experts of zeros that a selection bias of -2 keeps from being chosen
/// (probabilities are at most 1, and weights are normalized over the chosen ones); a dense layer in the range
/// gets top_k copies of its FFN, each with weight 1/top_k. Rows of q and k are reordered from halves to
/// pairs.
/// @param tensors all of the mixture, under the names of model::Parameter   @param where named in messages
/// @throws Error(config) naming what the class cannot hold
TransformersModel pad_experts(const ModelConfig& config, const TensorSources& tensors,
                              const std::string& where);

/// Returns `config` in its exact size, of any family, under the names of model::Parameter, with
/// configuration_neuronmoe.py and modeling_neuronmoe.py of src/model/transformers. Routers are in float32.
/// @param tensors all of the mixture   @param where named in messages
TransformersModel add_python(const ModelConfig& config, const TensorSources& tensors,
                             const std::string& where);

/// Returns config.json of a mixture's base with what transformers 5 reads in other places (rope_parameters).
nlohmann::ordered_json transformers_config(const ModelConfig& config);
/// Returns the tensor. @throws Error(bad_data) naming `where` if it is missing
const io::TensorSource& find_tensor(const TensorSources& tensors, const std::string& name,
                                    const std::string& where);
/// Returns the tensor (float32 or bfloat16) so that reading a number that is not finite throws
/// Error(bad_data) naming `where`.
io::TensorSource require_finite(io::TensorSource source, const std::string& where);

}  // namespace nmoe::model
