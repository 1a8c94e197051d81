// config.json of Hugging Face: what is read, and what is refused by name because it would change the numbers.
#include <boost/test/unit_test.hpp>
#include <nlohmann/json.hpp>

#include "neuronmoe/io/safetensors.hpp"
#include "neuronmoe/model/config.hpp"
#include "neuronmoe/model/hf_model.hpp"
#include "support/golden.hpp"
#include "support/temp_dir.hpp"
#include "support/tiny_model.hpp"

using namespace nmoe;
using nlohmann::json;

namespace {

json llama() {
  return json::parse(R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 64,
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "hidden_act": "silu", "max_position_embeddings": 128, "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0, "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": 2})");
}

model::ModelConfig load(const json& changes) {
  const test::TempDir dir;
  json config = llama();
  config.update(changes);
  test::write_bytes(dir / "config.json", config.dump());
  return model::load_model_config(dir / "config.json");
}

std::string refused(const json& changes, std::initializer_list<std::string_view> words) {
  return test::expect_error(ErrorCode::bad_data, words, [&] { load(changes); });
}

const json llama3_rope = json::parse(R"({"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
  "high_freq_factor": 4.0, "original_max_position_embeddings": 8192})");

json without(json object, const char* key) {
  object.erase(key);
  return object;
}

json with(json object, const char* key, const json& value) {
  object[key] = value;
  return object;
}

}  // namespace

BOOST_AUTO_TEST_CASE(what_is_read) {
  const model::ModelConfig plain = load(json::object());
  BOOST_TEST(plain.head_dim == 4);
  BOOST_TEST(plain.rope_theta == 500000.0);
  BOOST_TEST(plain.rope_scaling.type == "default");
  BOOST_TEST(load({{"head_dim", 32}}).head_dim == 32);
  BOOST_TEST(load({{"eos_token_id", {5, 6}}}).eos_token_id == 5);
  BOOST_TEST(load({{"eos_token_id", nullptr}}).eos_token_id == -1);
  const model::ModelConfig old = load({{"rope_scaling", llama3_rope}});
  BOOST_TEST(
      (old.rope_scaling.type == "llama3" && old.rope_scaling.factor == 32.0 && old.rope_theta == 500000.0));
  const model::ModelConfig fresh =  // as transformers 5 writes it
      load({{"rope_theta", nullptr}, {"rope_parameters", with(llama3_rope, "rope_theta", 10.0)}});
  BOOST_TEST((fresh.rope_scaling.type == "llama3" && fresh.rope_theta == 10.0));
  BOOST_TEST(load({{"rope_scaling", {{"type", "linear"}, {"factor", 2.0}}}}).rope_scaling.factor == 2.0);
  const json qwen = {{"model_type", "qwen2"},       {"architectures", {"Qwen2ForCausalLM"}},
                     {"sliding_window", 32768},     {"max_window_layers", 21},
                     {"use_sliding_window", false}, {"layer_types", {"full_attention", "full_attention"}}};
  BOOST_TEST(load(qwen).attention_bias);
  BOOST_TEST(!plain.attention_bias);
}

/// What transformers writes or reads in another way and computes alike.
BOOST_AUTO_TEST_CASE(spellings_that_change_nothing) {
  const std::string expected = model::model_config_json(load(json::object()));
  const json changes[] = {{{"hidden_act", "swish"}},
                          {{"architectures", {"LlamaModel"}}},
                          {{"architectures", nullptr}},
                          {{"sliding_window", nullptr}},
                          {{"sliding_window", 8}},  // not a field of Llama
                          {{"use_sliding_window", false}, {"sliding_window", 8}},
                          {{"layer_types", nullptr}},
                          {{"head_dim", nullptr}},
                          {{"attention_bias", nullptr}},
                          {{"partial_rotary_factor", 1}},
                          {{"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 500000.0}}}},
                          {{"torch_dtype", "float16"}, {"_name_or_path", "somebody/something"}},
                          {{"dtype", "bfloat16"}, {"transformers_version", "5.23.0"}},
                          {{"pad_token_id", -1}, {"pretraining_tp", 1}, {"use_cache", true}}};
  for (const json& change : changes)
    BOOST_TEST(model::model_config_json(load(change)) == expected, change.dump());
}

BOOST_AUTO_TEST_CASE(mistral_with_a_window_is_refused) {
  json mistral = {{"model_type", "mistral"}, {"architectures", {"MistralForCausalLM"}}};
  BOOST_TEST(refused(mistral, {"sliding_window", "missing"}) == "");  // transformers would take 4096
  for (const json& all : {json(nullptr), json(128), json(4096)})
    BOOST_TEST(load(with(mistral, "sliding_window", all)).model_type == "mistral");
  BOOST_TEST(refused(with(mistral, "sliding_window", 127), {"sliding_window", "127", "128"}) == "");
  mistral["sliding_window"] = nullptr;
  BOOST_TEST(refused(with(mistral, "attention_bias", true), {"attention_bias", "mistral"}) == "");
  BOOST_TEST(refused(with(mistral, "architectures", {"LlamaForCausalLM"}), {"MistralForCausalLM"}) == "");
  BOOST_TEST(refused({{"model_type", "gemma"}}, {"gemma", "llama, qwen2, mistral, qwen3"}) == "");
}

BOOST_AUTO_TEST_CASE(qwen3_norms_q_and_k) {
  const json qwen3 = {
      {"model_type", "qwen3"}, {"architectures", {"Qwen3ForCausalLM"}}, {"head_dim", 32},
      {"sliding_window", 32},  {"use_sliding_window", false},           {"attention_bias", false}};
  const model::ModelConfig config = load(qwen3);
  BOOST_TEST((config.qk_norm && !config.attention_bias && config.head_dim == 32));
  BOOST_TEST(!load(json::object()).qk_norm);
  BOOST_TEST(refused(without(qwen3, "head_dim"), {"head_dim", "missing"}) == "");  // transformers: 128
  BOOST_TEST(refused(with(qwen3, "attention_bias", true), {"attention_bias", "qwen3"}) == "");
  BOOST_TEST(refused(with(qwen3, "use_sliding_window", true), {"use_sliding_window"}) == "");
}

/// Written and read again, the features of each family are the same, and so is the text.
BOOST_AUTO_TEST_CASE(every_family_round_trips) {
  for (const char* name : {"llama", "qwen", "mistral", "qwen3"}) {
    const model::ModelConfig config = model::load_model_config(test::golden_path(name) + "/config.json");
    const test::TempDir dir;
    test::write_bytes(dir / "config.json", model::model_config_json(config));
    const model::ModelConfig again = model::load_model_config(dir / "config.json");
    BOOST_TEST(model::model_config_json(again) == model::model_config_json(config));
    BOOST_TEST(again.attention_bias == config.attention_bias);
    BOOST_TEST(again.qk_norm == config.qk_norm);
    BOOST_TEST(again.head_dim == config.head_dim);
  }
}

BOOST_AUTO_TEST_CASE(fields_that_would_change_the_numbers) {
  const std::pair<const char*, json> fields[] = {
      {"hidden_act", "gelu"},
      {"mlp_bias", true},
      {"attention_bias", true},
      {"use_sliding_window", true},
      {"partial_rotary_factor", 0.5},
      {"attention_dropout", 0.1},
      {"use_qk_norm", true},
      {"attn_logit_softcapping", 50.0},
      {"final_logit_softcapping", 30},
      {"logits_scaling", 8.0},
      {"residual_multiplier", 0.22},
      {"embedding_multiplier", 12},
      {"query_pre_attn_scalar", 256},
      {"attention_chunk_size", 8192},
      {"no_rope_layers", {1, 0}},
      {"num_local_experts", 8},
      {"num_experts", 60},
      {"is_encoder_decoder", true},
      {"auto_map", {{"AutoConfig", "x.Config"}}},
      {"quantization_config", {{"bits", 4}}},
      {"model_type", "gemma"},
      {"architectures", {"LlamaForSequenceClassification"}},
      {"layer_types", {"full_attention", "sliding_attention"}},
  };
  for (const auto& [key, value] : fields)
    BOOST_TEST(refused({{key, value}}, {"config.json", key}) == "", "field " << key);
  BOOST_TEST(refused({{"model_type", nullptr}}, {"model_type", "missing"}) == "");
  const auto rope = [](const json& value) { return json{{"rope_scaling", value}}; };
  for (const char* type : {"yarn", "dynamic", "longrope", "su"})
    BOOST_TEST(refused(rope({{"rope_type", type}, {"factor", 2.0}}), {"rope_scaling", type}) == "");
  BOOST_TEST(refused(rope(with(llama3_rope, "attention_factor", 1.5)), {"attention_factor"}) == "");
  BOOST_TEST(refused(rope({{"type", "linear"}}), {"factor", "missing"}) == "");
  for (const char* key :
       {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"})
    BOOST_TEST(refused(rope(without(llama3_rope, key)), {key, "missing"}) == "");
  BOOST_TEST(refused(rope(with(llama3_rope, "low_freq_factor", 4.0)), {"low_freq_factor", "not below"}) ==
             "");
  BOOST_TEST(refused(rope(with(llama3_rope, "type", "linear")), {"llama3", "linear"}) == "");
  BOOST_TEST(refused({{"rope_scaling", llama3_rope}, {"rope_parameters", llama3_rope}}, {"both"}) == "");
  BOOST_TEST(refused({{"rope_parameters", {{"rope_theta", 1e4}}}}, {"10000", "500000"}) == "");
  BOOST_TEST(refused({{"rope_parameters", {{"full_attention", llama3_rope}}}}, {"full_attention"}) == "");
}

BOOST_AUTO_TEST_CASE(values_out_of_range) {
  for (const char* key :
       {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"})
    for (const json& value : {json(0), json(-1), json(1.5), json("16"), json(true),
                              json(18446744073709551615ULL), json(std::int64_t{1} << 40)})
      BOOST_TEST(refused({{key, value}}, {key, "expected an integer"}) == "", key << " = " << value);
  BOOST_TEST(refused({{"num_hidden_layers", 1025}}, {"num_hidden_layers", "1024"}) == "");
  BOOST_TEST(refused({{"num_key_value_heads", 3}}, {"num_key_value_heads 3", "4"}) == "");
  BOOST_TEST(refused({{"num_attention_heads", 3}, {"num_key_value_heads", 1}}, {"does not divide"}) == "");
  BOOST_TEST(refused({{"head_dim", 5}}, {"head_dim 5", "odd"}) == "");
  BOOST_TEST(refused({{"rms_norm_eps", 0.0}}, {"rms_norm_eps", "positive"}) == "");
  BOOST_TEST(refused({{"rope_theta", -1.0}}, {"rope_theta", "positive"}) == "");
  BOOST_TEST(refused({{"bos_token_id", 64}}, {"bos_token_id", "63"}) == "");
  BOOST_TEST(refused({{"tie_word_embeddings", "yes"}}, {"tie_word_embeddings"}) == "");
  const test::TempDir dir;
  for (const auto& [text, word] :
       std::vector<std::pair<std::string, std::string>>{{"[]", "object"},
                                                        {"{", "JSON"},
                                                        {"", "JSON"},
                                                        {R"({"vocab_size":1,"vocab_size":2})", "twice"},
                                                        {"{\"a\":\"\xFF\"}", "JSON"},
                                                        {R"({"rms_norm_eps":1e999})", "JSON"},
                                                        {std::string(100, '['), "deeper"}}) {
    test::write_bytes(dir / "config.json", text);
    BOOST_TEST(test::expect_error(ErrorCode::bad_data, {word, "config.json"},
                                  [&] { model::load_model_config(dir / "config.json"); }) == "");
  }
}

/// A config.json that asks for terabytes beside weights of a few bytes: named before a byte is allocated.
BOOST_AUTO_TEST_CASE(weights_are_compared_before_anything_is_allocated) {
  const test::TempDir dir;
  test::LocalDecoder local(test::tiny_config({1, 1}), DType::float32, model::TrainableSet::none);
  model::save_dense_model(local.decoder, dir.path());
  model::ModelConfig config = model::load_model_config(dir / "config.json");
  model::require_dense_weights(config, dir.path());
  model::ModelConfig huge = config;
  huge.vocab_size = 1 << 26;
  huge.hidden_size = 1 << 20;
  BOOST_TEST(test::expect_error(ErrorCode::bad_data, {"embed_tokens", "[19, 8]", "[67108864, 1048576]"},
                                [&] { model::require_dense_weights(huge, dir.path()); }) == "");
  model::ModelConfig deeper = config;
  deeper.num_layers = 3;
  BOOST_TEST(test::expect_error(ErrorCode::bad_data, {"model.layers.2.", "missing"},
                                [&] { model::require_dense_weights(deeper, dir.path()); }) == "");
  model::ModelConfig shallower = config;
  shallower.num_layers = 1;
  BOOST_TEST(test::expect_error(ErrorCode::bad_data, {"model.layers.1.", "no place"},
                                [&] { model::require_dense_weights(shallower, dir.path()); }) == "");
}

/// transformers' class without the head leaves "model." out of every name; the head of a tied model is the
/// embedding.
BOOST_AUTO_TEST_CASE(weights_of_the_class_without_the_head) {
  const test::TempDir dir;
  test::LocalDecoder local(test::tiny_config({1, 1}), DType::float32, model::TrainableSet::none);
  std::vector<io::NamedTensor> tensors;
  for (const model::Parameter& p : local.decoder.parameters())
    tensors.push_back({p.name.substr(model::base_prefix.size()), p.value.view()});
  io::write_safetensors(dir / "model.safetensors", std::move(tensors));
  test::LocalDecoder found(test::tiny_config({1, 1}), DType::float32, model::TrainableSet::none, 2);
  model::require_dense_weights(found.decoder.config(), dir.path());
  model::load_dense_weights(found.decoder, dir.path());
  for (const model::Parameter& p : local.decoder.parameters())
    BOOST_TEST(std::memcmp(found.decoder.parameter(p.name).value.view().raw(), p.value.view().raw(),
                           static_cast<std::size_t>(p.value.view().num_bytes())) == 0,
               p.name);
  model::ModelConfig untied = found.decoder.config();
  untied.tie_word_embeddings = false;
  BOOST_TEST(test::expect_error(ErrorCode::bad_data, {"lm_head.weight", "missing"},
                                [&] { model::require_dense_weights(untied, dir.path()); }) == "");
}
