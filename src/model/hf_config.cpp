// config.json of Hugging Face: read strictly, because a field that is passed over may change the numbers.
#include <algorithm>
#include <array>
#include <utility>

#include "config_fields.hpp"
#include "families.hpp"
#include "neuronmoe/io/json_file.hpp"

namespace nmoe::model {

namespace {

/// transformers has two names for x * sigmoid(x).
bool same_function(const json& a, const json& b) {
  return a == "swish" && b == "silu";
}

/// Fields that change the numbers and are not implemented, with the one value at which they do not.
void refuse_other_numbers(const FieldReader& fields) {
  static const std::pair<const char*, json> neutral[] = {
      {"hidden_act", "silu"},
      {"mlp_bias", false},
      {"use_sliding_window", false},
      {"quantization_config", nullptr},
      {"auto_map", nullptr},
      {"is_encoder_decoder", false},
      {"add_cross_attention", false},
      {"partial_rotary_factor", 1.0},
      {"rope_interleaved", false},
      {"attention_dropout", 0.0},
      {"hidden_dropout", 0.0},
      {"use_qk_norm", false},
      {"qk_layernorm", false},
      {"alibi", false},
      {"no_rope_layers", nullptr},
      {"attention_chunk_size", nullptr},
      {"attention_multiplier", nullptr},
      {"query_pre_attn_scalar", nullptr},
      {"attn_logit_softcapping", nullptr},
      {"final_logit_softcapping", nullptr},
      {"logits_scaling", 1.0},
      {"logit_scale", 1.0},
      {"embedding_multiplier", 1.0},
      {"residual_multiplier", 1.0},
      {"num_local_experts", nullptr},
      {"num_experts", nullptr},
  };
  for (const auto& [key, value] : neutral)
    NMOE_CHECK(
        !fields.has(key) || fields.required(key) == value || same_function(fields.required(key), value),
        bad_data, "{}: \"{}\" is {:.80}, which is not supported{}", fields.path(), key,
        fields.required(key).dump(), value.is_null() ? "" : fmt::format(", only {} is", value.dump()));
  if (!fields.has("layer_types")) return;
  const json& types = fields.required("layer_types");
  for (const json& type : types)
    NMOE_CHECK(type == "full_attention", bad_data,
               "{}: \"layer_types\" has {:.80}, which is not supported, only \"full_attention\" is",
               fields.path(), type.dump());
}

/// Rotary embedding: `rope_theta` and `rope_scaling` at the top level, or both inside `rope_parameters` as
/// transformers 5 writes them.
void read_rope(ModelConfig& config, const FieldReader& fields) {
  NMOE_CHECK(!fields.has("rope_parameters") || !fields.has("rope_scaling"), bad_data,
             "{}: \"rope_parameters\" and \"rope_scaling\" are both given; keep one", fields.path());
  config.rope_theta = fields.number_or("rope_theta", 10000.0);
  const char* const key = fields.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  if (!fields.has(key)) return;
  const json& object = fields.required(key);
  const FieldReader inner(fmt::format("{}: {}", fields.path(), key), object);
  constexpr std::array known = {"rope_type",
                                "type",
                                "factor",
                                "low_freq_factor",
                                "high_freq_factor",
                                "rope_theta",
                                "original_max_position_embeddings"};
  RopeScaling& scaling = config.rope_scaling;
  scaling.type = inner.text_or("rope_type", inner.text_or("type", "default"));
  NMOE_CHECK(inner.text_or("type", scaling.type) == scaling.type, bad_data,
             "{}: \"rope_type\" is {} but \"type\" is {}", inner.path(), scaling.type, inner.text("type"));
  NMOE_CHECK(scaling.type == "default" || scaling.type == "linear" || scaling.type == "llama3", bad_data,
             "{}: type \"{}\" is not supported; known are default, linear, llama3", inner.path(),
             scaling.type);
  for (const auto& [name, value] : object.items())
    NMOE_CHECK(value.is_null() || std::find(known.begin(), known.end(), name) != known.end(), bad_data,
               "{}: field \"{}\" is not supported", inner.path(), name);
  const double theta = inner.number_or("rope_theta", config.rope_theta);
  NMOE_CHECK(!fields.has("rope_theta") || theta == config.rope_theta, bad_data,
             "{}: \"rope_theta\" is {}, but {} at the top level", inner.path(), theta, config.rope_theta);
  config.rope_theta = theta;
  if (scaling.type != "default") scaling.factor = inner.number("factor");
  if (scaling.type != "llama3") return;
  scaling.low_freq_factor = inner.number("low_freq_factor");
  scaling.high_freq_factor = inner.number("high_freq_factor");
  scaling.original_max_position_embeddings =
      inner.integer("original_max_position_embeddings", 1, max_positions);
  NMOE_CHECK(scaling.low_freq_factor < scaling.high_freq_factor, bad_data,
             "{}: \"low_freq_factor\" {} is not below \"high_freq_factor\" {}", inner.path(),
             scaling.low_freq_factor, scaling.high_freq_factor);
}

void read_attention(ModelConfig& config, const FieldReader& fields) {
  config.num_attention_heads = static_cast<int>(fields.integer("num_attention_heads", 1, max_heads));
  config.num_key_value_heads =
      static_cast<int>(fields.integer_or("num_key_value_heads", config.num_attention_heads, 1, max_heads));
  NMOE_CHECK(fields.has("head_dim") || config.hidden_size % config.num_attention_heads == 0, bad_data,
             "{}: num_attention_heads {} does not divide hidden_size {}, and there is no head_dim",
             fields.path(), config.num_attention_heads, config.hidden_size);
  config.head_dim = static_cast<int>(
      fields.integer_or("head_dim", config.hidden_size / config.num_attention_heads, 2, max_head_dim));
  NMOE_CHECK(config.head_dim % 2 == 0 && config.head_dim > 0, bad_data,
             "{}: head_dim {} is odd; the rotary embedding needs pairs", fields.path(), config.head_dim);
  NMOE_CHECK(config.num_attention_heads % config.num_key_value_heads == 0, bad_data,
             "{}: num_key_value_heads {} does not divide num_attention_heads {}", fields.path(),
             config.num_key_value_heads, config.num_attention_heads);
}

}  // namespace

ModelConfig load_model_config(const std::string& path) {
  constexpr std::int64_t max_bytes = 16 << 20;
  const json object = io::read_json(path, max_bytes);
  const FieldReader fields(path, object);
  ModelConfig config;
  const Family& family = read_family(fields);
  config.model_type = family.model_type;
  refuse_other_numbers(fields);
  config.vocab_size = fields.integer("vocab_size", 1, max_vocabulary);
  config.hidden_size = fields.integer("hidden_size", 1, max_width);
  config.intermediate_size = fields.integer("intermediate_size", 1, max_width);
  config.num_layers = static_cast<int>(fields.integer("num_hidden_layers", 1, max_layers));
  read_attention(config, fields);
  config.max_position_embeddings = fields.integer_or("max_position_embeddings", 2048, 1, max_positions);
  config.rms_norm_eps = fields.number_or("rms_norm_eps", 1e-6);
  read_rope(config, fields);
  config.tie_word_embeddings = fields.boolean_or("tie_word_embeddings", false);
  config.bos_token_id = fields.token_id("bos_token_id", config.vocab_size);
  config.eos_token_id = fields.token_id("eos_token_id", config.vocab_size);
  family.read(config, fields);
  config.num_experts.assign(static_cast<std::size_t>(config.num_layers), 1);
  return config;
}

std::string model_config_json(const ModelConfig& config) {
  const Family& family = family_of(config);
  json object = {
      {"architectures", json::array({family.architecture})},
      {"model_type", config.model_type},
      {"hidden_act", "silu"},
      {"vocab_size", config.vocab_size},
      {"hidden_size", config.hidden_size},
      {"intermediate_size", config.intermediate_size},
      {"num_hidden_layers", config.num_layers},
      {"num_attention_heads", config.num_attention_heads},
      {"num_key_value_heads", config.num_key_value_heads},
      {"head_dim", config.head_dim},
      {"max_position_embeddings", config.max_position_embeddings},
      {"rope_theta", config.rope_theta},
      {"rms_norm_eps", config.rms_norm_eps},
      {"tie_word_embeddings", config.tie_word_embeddings},
  };
  family.write(object, config);
  if (config.rope_scaling.type != "default") {
    const RopeScaling& s = config.rope_scaling;
    object["rope_scaling"] = {{"rope_type", s.type}, {"factor", s.factor}};
    if (s.type == "llama3") {
      object["rope_scaling"]["low_freq_factor"] = s.low_freq_factor;
      object["rope_scaling"]["high_freq_factor"] = s.high_freq_factor;
      object["rope_scaling"]["original_max_position_embeddings"] = s.original_max_position_embeddings;
    }
  }
  if (config.bos_token_id >= 0) object["bos_token_id"] = config.bos_token_id;
  if (config.eos_token_id >= 0) object["eos_token_id"] = config.eos_token_id;
  return object.dump(2) + "\n";
}

}  // namespace nmoe::model
