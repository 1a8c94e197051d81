#include "neuronmoe/model/config.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>

#include "neuronmoe/base/error.hpp"
#include "neuronmoe/io/atomic_file.hpp"
#include "neuronmoe/io/json_file.hpp"

namespace nmoe::model {

namespace {

using nlohmann::json;

/// Reads fields of one config.json with messages that name file and field.
class FieldReader {
 public:
  FieldReader(const std::string& path, const json& object) : path_(path), object_(object) {}
  std::int64_t integer(const char* key, std::int64_t min) const { return check(key, required(key), min); }
  std::int64_t integer_or(const char* key, std::int64_t fallback, std::int64_t min) const {
    return has(key) ? check(key, object_.at(key), min) : fallback;
  }
  double number_or(const char* key, double fallback) const {
    if (!has(key)) return fallback;
    const json& value = object_.at(key);
    NMOE_CHECK(value.is_number() && value.get<double>() > 0.0, bad_data,
               "{}: \"{}\" is {}, expected a positive number", path_, key, value.dump());
    return value.get<double>();
  }
  bool boolean_or(const char* key, bool fallback) const {
    if (!has(key)) return fallback;
    NMOE_CHECK(object_.at(key).is_boolean(), bad_data, "{}: \"{}\" is {}, expected true or false", path_, key,
               object_.at(key).dump());
    return object_.at(key).get<bool>();
  }
  std::string text_or(const char* key, const std::string& fallback) const {
    if (!has(key)) return fallback;
    NMOE_CHECK(object_.at(key).is_string(), bad_data, "{}: \"{}\" is {}, expected a string", path_, key,
               object_.at(key).dump());
    return object_.at(key).get<std::string>();
  }
  bool has(const char* key) const { return object_.contains(key) && !object_.at(key).is_null(); }

 private:
  const json& required(const char* key) const {
    NMOE_CHECK(has(key), bad_data, "{}: field \"{}\" is missing", path_, key);
    return object_.at(key);
  }
  std::int64_t check(const char* key, const json& value, std::int64_t min) const {
    constexpr std::int64_t max = std::int64_t{1} << 31;
    NMOE_CHECK(
        value.is_number_integer() && value.get<std::int64_t>() >= min && value.get<std::int64_t>() <= max,
        bad_data, "{}: \"{}\" is {}, expected an integer of at least {}", path_, key, value.dump(), min);
    return value.get<std::int64_t>();
  }
  const std::string& path_;
  const json& object_;
};

RopeScaling read_rope_scaling(const std::string& path, const json& object) {
  RopeScaling scaling;
  if (!object.contains("rope_scaling") || object.at("rope_scaling").is_null()) return scaling;
  NMOE_CHECK(object.at("rope_scaling").is_object(), bad_data, "{}: \"rope_scaling\" is not an object", path);
  const FieldReader fields(path, object.at("rope_scaling"));
  scaling.type = fields.text_or("rope_type", fields.text_or("type", "default"));
  NMOE_CHECK(scaling.type == "default" || scaling.type == "linear" || scaling.type == "llama3", bad_data,
             "{}: rope_scaling type \"{}\" is not supported; known are default, linear, llama3", path,
             scaling.type);
  scaling.factor = fields.number_or("factor", 1.0);
  scaling.low_freq_factor = fields.number_or("low_freq_factor", 1.0);
  scaling.high_freq_factor = fields.number_or("high_freq_factor", 4.0);
  scaling.original_max_position_embeddings = fields.integer_or("original_max_position_embeddings", 8192, 1);
  return scaling;
}

}  // namespace

int ModelConfig::num_moe_layers() const {
  return static_cast<int>(std::count_if(num_experts.begin(), num_experts.end(), [](int e) { return e > 1; }));
}

ModelConfig load_model_config(const std::string& path) {
  const json object = io::read_json(path);
  NMOE_CHECK(object.is_object(), bad_data, "{}: expected a JSON object", path);
  const FieldReader fields(path, object);
  ModelConfig config;
  config.model_type = fields.text_or("model_type", "llama");
  NMOE_CHECK(config.model_type == "llama" || config.model_type == "qwen2", bad_data,
             "{}: model_type \"{}\" is not supported; known are llama, qwen2", path, config.model_type);
  const std::string activation = fields.text_or("hidden_act", "silu");
  NMOE_CHECK(activation == "silu", bad_data, "{}: hidden_act \"{}\" is not supported, only silu is", path,
             activation);
  config.vocab_size = fields.integer("vocab_size", 1);
  config.hidden_size = fields.integer("hidden_size", 1);
  config.intermediate_size = fields.integer("intermediate_size", 1);
  config.num_layers = static_cast<int>(fields.integer("num_hidden_layers", 1));
  config.num_attention_heads = static_cast<int>(fields.integer("num_attention_heads", 1));
  config.num_key_value_heads =
      static_cast<int>(fields.integer_or("num_key_value_heads", config.num_attention_heads, 1));
  config.head_dim =
      static_cast<int>(fields.integer_or("head_dim", config.hidden_size / config.num_attention_heads, 2));
  NMOE_CHECK(config.head_dim % 2 == 0, bad_data, "{}: head_dim {} is odd; the rotary embedding needs pairs",
             path, config.head_dim);
  NMOE_CHECK(config.num_attention_heads % config.num_key_value_heads == 0, bad_data,
             "{}: num_key_value_heads {} does not divide num_attention_heads {}", path,
             config.num_key_value_heads, config.num_attention_heads);
  config.max_position_embeddings = fields.integer_or("max_position_embeddings", 2048, 1);
  NMOE_CHECK(!fields.boolean_or("mlp_bias", false), bad_data, "{}: mlp_bias is not supported", path);
  NMOE_CHECK(fields.has("rope_theta") || !fields.has("rope_parameters"), bad_data,
             "{}: \"rope_parameters\" is not read; write rope_theta (and rope_scaling) at the top level",
             path);
  config.rope_theta = fields.number_or("rope_theta", 10000.0);
  config.rms_norm_eps = fields.number_or("rms_norm_eps", 1e-6);
  config.rope_scaling = read_rope_scaling(path, object);
  config.tie_word_embeddings = fields.boolean_or("tie_word_embeddings", false);
  config.attention_bias = fields.boolean_or("attention_bias", config.model_type == "qwen2");
  NMOE_CHECK(config.model_type == "qwen2" || !config.attention_bias, bad_data,
             "{}: attention_bias is supported for qwen2 only (llama's would bias o_proj as well)", path);
  NMOE_CHECK(!fields.boolean_or("use_sliding_window", false), bad_data,
             "{}: use_sliding_window is not supported", path);
  config.bos_token_id = fields.integer_or("bos_token_id", -1, 0);
  config.eos_token_id = fields.integer_or("eos_token_id", -1, 0);
  config.num_experts.assign(static_cast<std::size_t>(config.num_layers), 1);
  return config;
}

std::string model_config_json(const ModelConfig& config) {
  json object = {
      {"architectures", {config.model_type == "qwen2" ? "Qwen2ForCausalLM" : "LlamaForCausalLM"}},
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
      {"attention_bias", config.attention_bias},
  };
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

std::vector<int> load_expert_counts(const std::string& path, int num_layers) {
  constexpr std::string_view key = "ADA_MOE_NUM_EXPERTS_LIST=";
  std::istringstream text(io::read_file(path, 1 << 20));
  std::vector<int> counts;
  bool found = false;
  std::string line;
  for (int number = 1; std::getline(text, line); ++number) {
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.pop_back();
    if (line.empty() || line.front() == '#') continue;
    NMOE_CHECK(line.starts_with(key), bad_data, "{}:{}: expected {}..., found \"{}\"", path, number, key,
               line.substr(0, 60));
    NMOE_CHECK(!found, bad_data, "{}:{}: a second {}", path, number, key);
    found = true;
    std::istringstream list(line.substr(key.size()));
    for (std::string entry; std::getline(list, entry, ',');) {
      std::size_t used = 0;
      int count = 0;
      try {
        count = std::stoi(entry, &used);
      } catch (const std::exception&) {
        used = std::string::npos;
      }
      NMOE_CHECK(used == entry.size() && count >= 1 && count <= 4096, bad_data,
                 "{}:{}: entry {} is \"{}\", expected a count from 1 (dense) to 4096", path, number,
                 counts.size(), entry);
      counts.push_back(count);
    }
    NMOE_CHECK(static_cast<int>(counts.size()) == num_layers, bad_data,
               "{}:{}: {} expert counts for a model of {} layers; allocate for this model", path, number,
               counts.size(), num_layers);
  }
  NMOE_CHECK(found, bad_data, "{}: no line {}", path, key);
  return counts;
}

}  // namespace nmoe::model
