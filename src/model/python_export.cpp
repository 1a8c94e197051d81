// A mixture of experts in its exact size for transformers, with the Python that runs it.
#include <fmt/format.h>

#include <numeric>

#include "nmoe_transformers_python.hpp"
#include "transformers_export.hpp"

namespace nmoe::model {

namespace {

std::string config_json(const ModelConfig& config) {
  nlohmann::ordered_json object = transformers_config(config);
  for (const char* const key : {"sliding_window", "rope_theta", "rope_scaling"}) object.erase(key);
  object["architectures"] = {"NeuronMoEForCausalLM"};
  object["model_type"] = "neuronmoe";
  object["base_model_type"] = config.model_type;
  object["num_experts"] = config.num_experts;
  object["num_experts_per_tok"] = config.top_k;
  object["attention_bias"] = false;  // of Llama's class, which has it on o_proj as well
  object["qkv_bias"] = config.attention_bias;
  object["qk_norm"] = config.qk_norm;
  object["router_compat"] = name_of(config.router_compat());
  object["auto_map"] = {{"AutoConfig", "configuration_neuronmoe.NeuronMoEConfig"},
                        {"AutoModel", "modeling_neuronmoe.NeuronMoEModel"},
                        {"AutoModelForCausalLM", "modeling_neuronmoe.NeuronMoEForCausalLM"}};
  return object.dump(2) + "\n";
}

}  // namespace

TransformersModel add_python(const ModelConfig& config, const TensorSources& tensors,
                             const std::string& where) {
  TransformersModel model;
  model.config_json = config_json(config);
  for (const Parameter& p : list_parameters(config)) {
    const io::TensorSource& source = find_tensor(tensors, p.name, where);
    model.tensors[p.name] = p.is_router() ? converted(source, DType::float32) : source;
  }
  model.layout = fmt::format("{} experts in {} layers, nothing padded",
                             std::accumulate(config.num_experts.begin(), config.num_experts.end(), 0),
                             config.num_layers);
  model.note =
      "transformers runs it by `modeling_neuronmoe.py` beside the weights: load it with "
      "`trust_remote_code=True`.";
  model.files = {{"configuration_neuronmoe.py", configuration_neuronmoe_py},
                 {"modeling_neuronmoe.py", modeling_neuronmoe_py}};
  return model;
}

}  // namespace nmoe::model
