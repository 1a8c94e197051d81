// Sets of neurons whose outputs are replaced (METHOD 1.9): selected ones, random controls, and what is
// refused.
#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <functional>
#include <map>
#include <set>

#include "neuronmoe/analysis/neuron_sets.hpp"
#include "neuronmoe/base/error.hpp"
#include "support/tiny_model.hpp"

using namespace nmoe;
using analysis::NeuronSet;
using analysis::Replacement;

namespace {

/// Statistics whose medians say which language, neuron and kind they are of.
analysis::NeuronStatistics toy_statistics() {
  analysis::NeuronStatistics statistics;
  statistics.modules = analysis::ModuleTable(test::tiny_config({1, 1}));
  statistics.languages = {"en", "el", "hu"};
  statistics.n_pos = statistics.n_neg = {7, 7, 7};
  const auto neurons = static_cast<std::size_t>(statistics.modules.num_neurons());
  for (std::size_t g = 0; g < 3; ++g) {
    auto& off = statistics.off_p50.emplace_back();
    auto& on = statistics.on_p50.emplace_back();
    for (std::size_t n = 0; n < neurons; ++n) {
      off.push_back(static_cast<float>(1000 * g + n));
      on.push_back(-static_cast<float>(1000 * g + n));
    }
    auto& selection = statistics.selected.emplace_back();
    for (std::uint64_t uuid = 100 - g; uuid > 20; uuid -= 5 + g) {
      const auto m =
          static_cast<std::uint32_t>(statistics.modules.module_of(static_cast<std::int64_t>(uuid)));
      const auto offset = static_cast<std::uint64_t>(statistics.modules.modules()[m].offset);
      selection.neurons.push_back({uuid, m, static_cast<std::uint32_t>(uuid - offset), 0.9});
    }
  }
  return statistics;
}

std::map<std::size_t, int> per_module(const analysis::NeuronStatistics& statistics, const NeuronSet& set) {
  std::map<std::size_t, int> counts;
  for (const std::uint64_t uuid : set.uuids)
    ++counts[statistics.modules.module_of(static_cast<std::int64_t>(uuid))];
  return counts;
}

void check_refused(const analysis::NeuronStatistics& statistics, const analysis::NeuronSetOptions& options,
                   ErrorCode code, const std::string& says) {
  std::string what = "nothing";
  try {
    analysis::neuron_sets(statistics, test::tiny_config({1, 1}), options);
  } catch (const Error& e) {
    what = e.what();
    BOOST_TEST((e.code() == code));
  }
  BOOST_CHECK_MESSAGE(what.find(says) != std::string::npos, what << "\n lacks: " << says);
}

}  // namespace

BOOST_AUTO_TEST_CASE(selected_neurons_and_their_controls) {
  const analysis::NeuronStatistics statistics = toy_statistics();
  const model::ModelConfig config = test::tiny_config({1, 1});
  const auto sets = analysis::neuron_sets(statistics, config, {"el,en", Replacement::off_p50, 2, 42});
  BOOST_REQUIRE(sets.size() == 6U);
  std::set<std::uint64_t> taken;
  for (const auto& selection : statistics.selected)
    for (const auto& neuron : selection.neurons) taken.insert(neuron.uuid);
  for (std::size_t i = 0; i < sets.size(); ++i) {
    const NeuronSet& set = sets[i];
    const std::size_t language = i < 3 ? 1 : 0;
    BOOST_TEST(set.language == statistics.languages[language]);
    BOOST_TEST(set.control == static_cast<std::int64_t>(i % 3));
    BOOST_TEST(std::is_sorted(set.uuids.begin(), set.uuids.end()));
    BOOST_TEST(std::set(set.uuids.begin(), set.uuids.end()).size() == set.uuids.size());
    BOOST_TEST((per_module(statistics, set) == per_module(statistics, sets[i - i % 3])));
    BOOST_REQUIRE(set.neurons.size() == set.uuids.size());
    std::set<std::uint64_t> selected;
    for (const auto& neuron : statistics.selected[language].neurons) selected.insert(neuron.uuid);
    for (std::size_t n = 0; n < set.uuids.size(); ++n) {
      BOOST_TEST((set.control == 0 ? selected.contains(set.uuids[n]) : !taken.contains(set.uuids[n])));
      const auto& module =
          statistics.modules.modules()[statistics.modules.module_of(static_cast<std::int64_t>(set.uuids[n]))];
      BOOST_TEST((set.neurons[n].layer == module.layer &&
                  set.uuids[n] == static_cast<std::uint64_t>(module.offset + set.neurons[n].unit)));
      BOOST_TEST(set.neurons[n].value == static_cast<float>(1000 * language + set.uuids[n]));
    }
  }
  BOOST_TEST(sets[0].uuids.size() == statistics.selected[1].neurons.size());
  BOOST_TEST((sets[1].uuids != sets[2].uuids));
  // The draw depends on language, number and seed alone; medians and zeros are what is asked for.
  const auto all = analysis::neuron_sets(statistics, config, {"", Replacement::on_p50, 1, 42});
  BOOST_REQUIRE(all.size() == 6U);
  BOOST_TEST((all[3].uuids == sets[1].uuids && all[1].uuids == sets[4].uuids));
  BOOST_TEST(all[2].neurons[0].value == -static_cast<float>(1000 + all[2].uuids[0]));
  const auto other = analysis::neuron_sets(statistics, config, {"el", Replacement::zero, 1, 43});
  BOOST_TEST((other[0].uuids == sets[0].uuids && other[1].uuids != sets[1].uuids));
  BOOST_TEST(other[0].neurons[0].value == 0.0F);
  BOOST_TEST(analysis::neuron_sets(statistics, config, {"el", Replacement::zero, 0, 43}).size() == 1U);
}

BOOST_AUTO_TEST_CASE(what_does_not_fit_is_refused) {
  const auto changed = [](const std::function<void(analysis::NeuronStatistics&)>& change) {
    analysis::NeuronStatistics statistics = toy_statistics();
    change(statistics);
    return statistics;
  };
  using Statistics = analysis::NeuronStatistics;
  check_refused(toy_statistics(), {"tr", Replacement::zero, 0, 1}, ErrorCode::config, "'tr' has no neurons");
  check_refused(toy_statistics(), {"el,el", Replacement::zero, 0, 1}, ErrorCode::config, "named twice");
  check_refused(changed([](Statistics& s) { s.modules = analysis::ModuleTable(test::tiny_config({1})); }), {},
                ErrorCode::bad_data, "the file has 7 modules, the model 14");
  model::ModelConfig wide = test::tiny_config({1, 1});
  wide.intermediate_size = 13;
  check_refused(changed([&](Statistics& s) { s.modules = analysis::ModuleTable(wide); }), {},
                ErrorCode::bad_data, "with 13 neurons, of the model model.layers.0.mlp.gate_proj:0 with 12");
  check_refused(changed([](Statistics& s) { s.n_neg[1] = 0; }), {"el", Replacement::off_p50, 0, 1},
                ErrorCode::bad_data, "the off_p50 of el is of no sentence");
  check_refused(changed([](Statistics& s) { s.n_pos[1] = 0; }), {"el", Replacement::on_p50, 0, 1},
                ErrorCode::bad_data, "the on_p50 of el is of no sentence");
  check_refused(changed([](Statistics& s) { s.on_p50[1][s.selected[1].neurons[0].uuid] = NAN; }),
                {"el", Replacement::on_p50, 0, 1}, ErrorCode::bad_data, "not a finite number");
  check_refused(changed([](Statistics& s) { s.selected[1].neurons[1] = s.selected[1].neurons[0]; }),
                {"el", Replacement::zero, 0, 1}, ErrorCode::bad_data, "selected twice for el");
  const Statistics full = changed([](Statistics& s) {
    s.selected[0].neurons.clear();
    for (std::uint32_t unit = 0; unit < 5; ++unit) s.selected[0].neurons.push_back({unit, 0, unit, 0.9});
  });
  check_refused(full, {"en", Replacement::zero, 1, 1}, ErrorCode::bad_data,
                "5 of model.layers.0.mlp.down_proj:0 are selected for en, 3 are selected for no language");
  BOOST_TEST(analysis::neuron_sets(full, test::tiny_config({1, 1}), {"en", Replacement::zero, 0, 1}).size() ==
             1U);
}
