// Parameters behind expert counts: the table of METHOD 3.6, and the decoder's own list of parameters.
#include <boost/test/unit_test.hpp>
#include <cmath>

#include "neuronmoe/analysis/compare_parameters.hpp"
#include "neuronmoe/base/error.hpp"
#include "neuronmoe/comm/communicator.hpp"
#include "neuronmoe/model/decoder.hpp"
#include "neuronmoe/model/expert_placement.hpp"

using namespace nmoe;
using analysis::compare_parameters;
using model::count_parameters;
using model::ParameterCount;

namespace {

model::ModelConfig llama_3b() {
  model::ModelConfig m;
  m.vocab_size = 128256;
  m.hidden_size = 3072;
  m.intermediate_size = 8192;
  m.num_layers = 28;
  m.num_attention_heads = 24;
  m.num_key_value_heads = 8;
  m.head_dim = 128;
  return m;
}
model::ModelConfig qwen_1_8b() {
  model::ModelConfig m;
  m.model_type = "qwen2";
  m.vocab_size = 151936;
  m.hidden_size = 2048;
  m.intermediate_size = 5504;
  m.num_layers = 24;
  m.num_attention_heads = m.num_key_value_heads = 16;
  m.head_dim = 128;
  m.tie_word_embeddings = false;
  m.attention_bias = true;
  return m;
}

model::ModelConfig qwen3_0_6b() {
  model::ModelConfig m;
  m.model_type = "qwen3";
  m.vocab_size = 151936;
  m.hidden_size = 1024;
  m.intermediate_size = 3072;
  m.num_layers = 28;
  m.num_attention_heads = 16;
  m.num_key_value_heads = 8;
  m.head_dim = 128;
  m.qk_norm = true;
  return m;
}

using Experts = std::vector<int>;
const Experts greek = {6, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1, 4, 1, 4, 2, 2, 4, 4};
const Experts hungarian = {5, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                           1, 1, 1, 1, 1, 1, 1, 2, 1, 3, 4, 6, 3, 2};
const Experts layer_moe = {5, 5, 5, 4, 3, 3, 2, 2, 2, 2, 2, 2, 2, 2,
                           2, 2, 2, 2, 3, 3, 3, 3, 3, 4, 4, 4, 4, 4};
const Experts qwen = {4, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 6};

// METHOD 3.6 gives three digits of billions and leaves out routers.
double billions(std::int64_t n) {
  return std::round(static_cast<double>(n) / 1e6) / 1e3;
}

void check(const ParameterCount& c, int moe_layers, int new_experts, double fresh, double total,
           double active) {
  BOOST_TEST(c.moe_layers == moe_layers);
  BOOST_TEST(c.new_experts == new_experts);
  BOOST_TEST(billions(c.in_new_experts) == fresh);
  BOOST_TEST(billions(c.total() - c.routers) == total);
  BOOST_TEST(billions(c.active - c.routers) == active);
}

}  // namespace

BOOST_AUTO_TEST_CASE(dense_models) {
  BOOST_TEST(count_parameters(llama_3b(), Experts(28, 1)).dense == 3212749824);
  BOOST_TEST(count_parameters(qwen_1_8b(), Experts(24, 1)).dense == 1836828672);
  BOOST_TEST(count_parameters(qwen3_0_6b(), Experts(28, 1)).dense == 596049920);
}

BOOST_AUTO_TEST_CASE(table_of_method_3_6) {
  check(count_parameters(llama_3b(), greek), 9, 21, 1.585, 4.798, 3.892);
  check(count_parameters(llama_3b(), hungarian), 8, 19, 1.434, 4.647, 3.817);
  check(count_parameters(llama_3b(), layer_moe), 28, 56, 4.228, 7.441, 5.327);
  check(count_parameters(llama_3b(), Experts(28, 1)), 0, 0, 0.0, 3.213, 3.213);
  check(count_parameters(qwen_1_8b(), qwen), 6, 12, 0.406, 2.243, 2.040);
  BOOST_TEST(count_parameters(llama_3b(), greek).routers == 92160);
  BOOST_CHECK_THROW(count_parameters(llama_3b(), qwen), Error);
}

BOOST_AUTO_TEST_CASE(reductions_of_experts_and_of_parameters_differ) {
  const auto lines = compare_parameters(count_parameters(llama_3b(), greek),
                                        count_parameters(llama_3b(), layer_moe), "LayerMoE");
  BOOST_TEST(lines[0] == "experts, base included: 49 (LayerMoE: 84, -41.7 %)");
  BOOST_TEST(lines[1] == "new experts: 21 (LayerMoE: 56, -62.5 %)");
  BOOST_TEST(lines[2].find("-62.5 %") != std::string::npos);
  BOOST_TEST(lines[4].find("-35.5 %") != std::string::npos);  // of all parameters
}

BOOST_AUTO_TEST_CASE(counts_what_the_decoder_holds) {
  model::ModelConfig m = qwen_1_8b();
  m.vocab_size = 50;
  m.hidden_size = 12;
  m.intermediate_size = 20;
  m.num_layers = 3;
  m.num_attention_heads = 3;
  m.num_key_value_heads = 1;
  m.head_dim = 4;
  m.max_position_embeddings = 32;
  m.num_experts = {3, 1, 2};
  const auto alone = comm::make_local_communicator();
  Stream stream;
  const model::Decoder decoder(m, DType::float32, model::TrainableSet::none,
                               {*alone, model::ExpertPlacement(m.num_experts, 1)}, stream);
  std::int64_t held = 0;
  for (const auto& parameter : decoder.parameters()) held += parameter.shape.num_elements();
  BOOST_TEST(count_parameters(m, m.num_experts).total() == held);
}
