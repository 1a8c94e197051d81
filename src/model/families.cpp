// The model families: one entry each. Nothing else in the program asks for the name of a family.
#include "families.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <iterator>
#include <vector>

namespace nmoe::model {

namespace {

/// For families whose bias in transformers is on o_proj as well.
void refuse_attention_bias(ModelConfig& config, const FieldReader& fields) {
  NMOE_CHECK(!fields.boolean_or("attention_bias", false), bad_data,
             "{}: attention_bias is supported for qwen2 only ({}'s would bias o_proj as well)", fields.path(),
             config.model_type);
}

void write_attention_bias(json& object, const ModelConfig& config) {
  object["attention_bias"] = config.attention_bias;
}

/// Qwen1.5 and Qwen2: bias on q, k and v.
void read_qwen2(ModelConfig& config, const FieldReader& fields) {
  config.attention_bias = fields.boolean_or("attention_bias", true);
}

/// Mistral without a window. One that holds every position masks nothing.
void read_mistral(ModelConfig& config, const FieldReader& fields) {
  refuse_attention_bias(config, fields);
  const std::int64_t all = config.max_position_embeddings;
  const std::int64_t window = fields.integer_or("sliding_window", all, 1, max_positions);
  NMOE_CHECK(
      window >= all, bad_data,
      "{}: \"sliding_window\" is {}, below \"max_position_embeddings\" {}, which is not supported; only "
      "null, or a window of all positions, is",
      fields.path(), window, all);
}

void write_mistral(json& object, const ModelConfig&) {
  object["sliding_window"] = nullptr;
}

constexpr const char* mistral_required[] = {"num_key_value_heads", "max_position_embeddings",
                                            "sliding_window"};

/// Qwen3: no biases, heads of any width, and a norm of each head of q and k.
void read_qwen3(ModelConfig& config, const FieldReader& fields) {
  refuse_attention_bias(config, fields);
  fields.required("head_dim");  // transformers would take 128
  config.qk_norm = true;
}

constexpr const char* qwen3_required[] = {"num_key_value_heads", "max_position_embeddings"};

constexpr Family families[] = {
    {"llama", "LlamaForCausalLM", "LlamaModel", {}, refuse_attention_bias, write_attention_bias},
    {"qwen2", "Qwen2ForCausalLM", "Qwen2Model", {}, read_qwen2, write_attention_bias},
    {"mistral", "MistralForCausalLM", "MistralModel", mistral_required, read_mistral, write_mistral},
    {"qwen3", "Qwen3ForCausalLM", "Qwen3Model", qwen3_required, read_qwen3, write_attention_bias},
};

const Family* find_family(std::string_view model_type) {
  const Family* const found = std::find_if(std::begin(families), std::end(families),
                                           [&](const Family& f) { return f.model_type == model_type; });
  return found == std::end(families) ? nullptr : found;
}

}  // namespace

const Family& read_family(const FieldReader& fields) {
  const std::string model_type = fields.text("model_type");
  const Family* const family = find_family(model_type);
  std::vector<std::string_view> known;
  for (const Family& f : families) known.push_back(f.model_type);
  NMOE_CHECK(family != nullptr, bad_data, "{}: model_type \"{}\" is not supported; known are {}",
             fields.path(), model_type, fmt::join(known, ", "));
  for (const char* const key : family->required)
    NMOE_CHECK(fields.given(key), bad_data, "{}: field \"{}\" is missing", fields.path(), key);
  if (!fields.has("architectures")) return *family;
  const json& classes = fields.required("architectures");
  const json expected = json::array({family->architecture});
  NMOE_CHECK(classes == expected || classes == json::array({family->base_class}), bad_data,
             "{}: architectures {:.80} are not supported; a {} has {}", fields.path(), classes.dump(),
             model_type, expected.dump());
  return *family;
}

const Family& family_of(const ModelConfig& config) {
  const Family* const family = find_family(config.model_type);
  NMOE_CHECK(family != nullptr, internal, "there is no model family \"{}\"", config.model_type);
  return *family;
}

}  // namespace nmoe::model
