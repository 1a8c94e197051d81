// Module order, selection and distinct-unit counts (METHOD 1.3, 1.7, 2).
#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <limits>
#include <set>

#include "neuronmoe/analysis/allocation.hpp"
#include "neuronmoe/analysis/selection.hpp"
#include "neuronmoe/base/error.hpp"

using namespace nmoe;
using namespace nmoe::analysis;

namespace {

model::ModelConfig make_config(int layers, std::int64_t hidden, std::int64_t intermediate, int heads,
                               int kv_heads, int head_dim) {
  model::ModelConfig config;
  config.num_layers = layers;
  config.hidden_size = hidden;
  config.intermediate_size = intermediate;
  config.num_attention_heads = heads;
  config.num_key_value_heads = kv_heads;
  config.head_dim = head_dim;
  config.num_experts.assign(static_cast<std::size_t>(layers), 1);
  return config;
}

Selection select(const std::vector<double>& ap, const ModuleTable& table, std::int64_t top_k, double ap_min,
                 Ties ties = Ties::uuid, const std::vector<float>& separation = {}, std::uint64_t seed = 0) {
  return select_neurons({"el", ap, separation}, table, {top_k, ap_min, ties, seed});
}

std::set<std::uint64_t> uuids_of(const Selection& selection) {
  std::set<std::uint64_t> uuids;
  for (const auto& neuron : selection.neurons) uuids.insert(neuron.uuid);
  return uuids;
}

}  // namespace

BOOST_AUTO_TEST_CASE(neuron_totals_of_the_papers_models) {
  BOOST_TEST(ModuleTable(make_config(28, 3072, 8192, 24, 8, 128)).num_neurons() == 774144);   // Llama-3.2-3B
  BOOST_TEST(ModuleTable(make_config(24, 2048, 5504, 16, 16, 128)).num_neurons() == 509952);  // Qwen1.5-1.8B
}

BOOST_AUTO_TEST_CASE(modules_in_bytewise_name_order) {
  const ModuleTable table(make_config(12, 8, 20, 4, 2, 2));
  const auto& modules = table.modules();
  BOOST_REQUIRE(modules.size() == 84U);
  const std::vector<int> layers = {0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9};
  const char* names[] = {"mlp.down_proj",    "mlp.gate_proj",    "mlp.up_proj",     "self_attn.k_proj",
                         "self_attn.o_proj", "self_attn.q_proj", "self_attn.v_proj"};
  const std::int64_t widths[] = {8, 20, 20, 4, 8, 8, 4};
  std::int64_t offset = 0;
  for (std::size_t m = 0; m < modules.size(); ++m) {
    BOOST_TEST(modules[m].name ==
               "model.layers." + std::to_string(layers[m / 7]) + "." + names[m % 7] + ":0");
    BOOST_TEST(modules[m].layer == layers[m / 7]);
    BOOST_TEST(modules[m].width == widths[m % 7]);
    BOOST_TEST(modules[m].offset == offset);
    offset += modules[m].width;
  }
  BOOST_TEST(table.num_layers() == 12);
  BOOST_TEST(table.module_of(0) == 0U);
  BOOST_TEST(table.module_of(7) == 0U);
  BOOST_TEST(table.module_of(8) == 1U);
  BOOST_TEST(table.module_of(offset - 1) == 83U);
}

BOOST_AUTO_TEST_CASE(expert_modules_by_layer_and_expert) {
  auto config = make_config(3, 8, 20, 4, 2, 2);
  config.num_experts = {2, 1, 3};
  const ModuleTable table = expert_module_table(config);
  BOOST_TEST(table.modules().size() == 18U);
  BOOST_TEST(table.num_neurons() == 6 * 48);
  BOOST_TEST(table.modules()[3].name == "model.layers.0.mlp.exp_0.down_proj:0");
  BOOST_TEST(table.modules()[7].name == "model.layers.1.mlp.base.gate_proj:0");
}

BOOST_AUTO_TEST_CASE(ties_by_uuid_go_to_the_lower_row) {
  const ModuleTable table(make_config(1, 8, 20, 4, 2, 2));
  std::vector<double> ap(static_cast<std::size_t>(table.num_neurons()), 0.1);
  ap[60] = 0.9;
  ap[5] = 0.8 + 1e-12;  // equal to 0.8 as float32: order by uuid, not by the last bits
  ap[3] = 0.8;
  ap[50] = 0.8;
  const Selection selection = select(ap, table, 3, 0.5);
  BOOST_REQUIRE(selection.neurons.size() == 3U);
  BOOST_TEST(selection.neurons[0].uuid == 60U);
  BOOST_TEST(selection.neurons[1].uuid == 3U);
  BOOST_TEST(selection.neurons[2].uuid == 5U);
  BOOST_TEST(selection.neurons[0].module == 5U);  // q_proj begins at 8 + 20 + 20 + 4 + 8 = 60
  BOOST_TEST(selection.neurons[0].unit == 0U);
  BOOST_TEST(selection.threshold == 0.8 + 1e-12);
  BOOST_TEST(selection.cut.ap == static_cast<double>(0.8F));
  BOOST_TEST(selection.cut.tied == 3);  // as float32
  BOOST_TEST(selection.cut.taken == 2);
  BOOST_TEST(selection.top_k_of_all_tied() == 4);
  BOOST_REQUIRE(selection.warnings.size() == 1U);
  BOOST_TEST(
      selection.warnings[0] ==
      "3 neurons have the AP of the cut, 0.800000, and 2 of them were taken, in the order of rows, which "
      "favors the first layers (analysis.ties = random does not); top_k = 4 takes them all, and negatives "
      "in the same script would tell them apart");
  BOOST_TEST(select(ap, table, 4, 0.5).warnings.empty());
  BOOST_TEST(select(ap, table, 4, 0.5).cut.tied == 3);
}

BOOST_AUTO_TEST_CASE(ties_at_random_favor_no_row) {
  const ModuleTable table(make_config(10, 8, 20, 4, 2, 2));  // 72 neurons in each of ten layers
  std::vector<double> ap(static_cast<std::size_t>(table.num_neurons()), 0.9);
  ap[700] = 0.95;
  ap[3] = 0.5;  // below the others
  std::vector<int> taken(ap.size(), 0);
  for (std::uint64_t seed = 0; seed < 400; ++seed) {
    const Selection selection = select(ap, table, 72, 0.2, Ties::random, {}, seed);
    BOOST_REQUIRE(uuids_of(selection).size() == 72U);
    BOOST_TEST(selection.neurons[0].uuid == 700U);
    BOOST_TEST(selection.cut.tied == 718);
    BOOST_TEST(selection.cut.taken == 71);
    for (const auto& neuron : selection.neurons) ++taken[neuron.uuid];
  }
  BOOST_TEST(taken[3] == 0);
  for (std::size_t layer = 0; layer < 10; ++layer) {  // 2840 expected, standard deviation below 51
    int sum = 0;
    for (std::size_t n = 0; n < ap.size(); ++n)
      if (table.modules()[table.module_of(static_cast<std::int64_t>(n))].layer == static_cast<int>(layer))
        sum += taken[n];
    BOOST_TEST(std::abs(sum - 2840 - (layer == 0 ? -40 : 0) - (layer == 9 ? 360 : 0)) < 260);
  }
  // A function of seed and language; taking more keeps what was taken.
  const auto first = uuids_of(select(ap, table, 50, 0.2, Ties::random, {}, 7));
  BOOST_TEST((first == uuids_of(select(ap, table, 50, 0.2, Ties::random, {}, 7))));
  BOOST_TEST((first != uuids_of(select(ap, table, 50, 0.2, Ties::random, {}, 8))));
  BOOST_TEST((first != uuids_of(select_neurons({"en", ap, {}}, table, {50, 0.2, Ties::random, 7}))));
  const auto more = uuids_of(select(ap, table, 90, 0.2, Ties::random, {}, 7));
  BOOST_TEST(std::includes(more.begin(), more.end(), first.begin(), first.end()));
}

BOOST_AUTO_TEST_CASE(ties_by_separation) {
  const ModuleTable table(make_config(1, 8, 20, 4, 2, 2));
  std::vector<double> ap(static_cast<std::size_t>(table.num_neurons()), 1.0);
  ap[9] = 0.99;
  std::vector<float> separation(ap.size(), 1.0F);
  separation[9] = 100.0F;  // AP comes first
  separation[20] = 5.0F;
  separation[50] = std::numeric_limits<float>::infinity();
  separation[30] = separation[10] = 4.0F;
  separation[40] = std::numeric_limits<float>::quiet_NaN();
  const Selection selection = select(ap, table, 4, 0.5, Ties::separation, separation);
  const std::uint64_t expected[] = {50, 20, 10, 30};
  for (std::size_t i = 0; i < 4; ++i) BOOST_TEST(selection.neurons[i].uuid == expected[i]);
  BOOST_TEST(selection.warnings.size() == 1U);
  BOOST_TEST(selection.rule.find("separation") != std::string::npos);
  BOOST_TEST(select(ap, table, 71, 0.5, Ties::separation, separation).neurons[70].uuid == 40U);
  BOOST_CHECK_EXCEPTION(select(ap, table, 4, 0.5, Ties::separation), Error, [](const Error& e) {
    return e.code() == ErrorCode::config &&
           std::string(e.what()).find("no separation was stored") != std::string::npos;
  });
}

BOOST_AUTO_TEST_CASE(ap_min_is_strict_and_shortage_warns) {
  const ModuleTable table(make_config(1, 8, 20, 4, 2, 2));
  std::vector<double> ap(static_cast<std::size_t>(table.num_neurons()), 0.5);
  ap[1] = 0.75;
  const Selection selection = select(ap, table, 10, 0.5);
  BOOST_TEST(selection.neurons.size() == 1U);
  BOOST_REQUIRE(selection.warnings.size() == 1U);
  BOOST_TEST(selection.warnings[0].find("only 1 of the 10") != std::string::npos);
  BOOST_TEST(select(ap, table, 10, 0.75).neurons.empty());
}

BOOST_AUTO_TEST_CASE(default_top_k_scales_with_the_model) {
  BOOST_TEST(default_top_k(774144) == 1000);
  BOOST_TEST(default_top_k(509952) == 659);
  BOOST_TEST(default_top_k(9600) == 96);  // 1 %: 1000·N/774144 would be 12
  BOOST_TEST(default_top_k(40000) == 100);
  BOOST_TEST(default_top_k(3) == 1);
}

BOOST_AUTO_TEST_CASE(units_are_counted_once_per_layer_whatever_the_projection) {
  const ModuleTable table(make_config(2, 8, 20, 4, 2, 2));
  std::vector<double> ap(static_cast<std::size_t>(table.num_neurons()), 0.0);
  ap[2] = ap[8 + 2] = ap[28 + 2] = 0.9;  // unit 2 of down, gate and up, layer 0
  ap[8 + 3] = 0.9;
  ap[72 + 2] = 0.9;  // layer 1
  const Selection a = select(ap, table, 100, 0.5);
  std::fill(ap.begin(), ap.end(), 0.0);
  ap[2] = ap[4] = 0.9;  // (down, 2) is shared
  const Selection b = select(ap, table, 100, 0.5);
  const Selection* both[] = {&a, &b};
  const std::vector<double> units = {3, 1}, pairs = {5, 1};
  BOOST_TEST(union_sizes(both, table, NeuronKey::unit) == units, boost::test_tools::per_element());
  BOOST_TEST(union_sizes(both, table, NeuronKey::module_unit) == pairs, boost::test_tools::per_element());
}
