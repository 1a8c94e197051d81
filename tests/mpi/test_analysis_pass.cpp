// analyze, specialize and score over ranks: the same bits on 1 to 4 ranks, and equal to plain loops.
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <filesystem>
#include <set>

#include "neuronmoe/analysis/expert_probe.hpp"
#include "neuronmoe/analysis/lape.hpp"
#include "neuronmoe/analysis/layer_similarity.hpp"
#include "neuronmoe/analysis/neuron_analysis.hpp"
#include "neuronmoe/analysis/score.hpp"
#include "neuronmoe/analysis/specialize.hpp"
#include "neuronmoe/base/philox.hpp"
#include "neuronmoe/io/atomic_file.hpp"
#include "neuronmoe/io/hdf5_file.hpp"
#include "support/mpi_fixture.hpp"
#include "support/toy_analysis.hpp"

using namespace nmoe;
using namespace nmoe::analysis;
using namespace nmoe::test;

namespace {

int chosen_expert(const FakeRow& row, int layer, int num_experts) {
  return (row.id * 7 + layer) % num_experts;
}

// The toy mixture: experts live on rank e mod R, and rows of all ranks travel there, one call per source
// rank, as the decoder reports segments. The base sees the tokens of its own rank.
ObserveFunction expert_model(const model::ModelConfig& config, comm::Communicator& comm) {
  return [&config, &comm](const model::Batch& batch, model::ActivationObserver& observer) {
    const auto mine = rows_of(batch);
    const auto texts = comm::all_gather_strings(
        comm, std::string_view(reinterpret_cast<const char*>(mine.data()), mine.size() * sizeof(FakeRow)));
    std::vector<std::vector<FakeRow>> all;
    for (const auto& text : texts) {
      all.emplace_back(text.size() / sizeof(FakeRow));
      std::copy(text.begin(), text.end(), reinterpret_cast<char*>(all.back().data()));
    }
    for (int l = 0; l < config.num_layers; ++l) {
      const int num_experts = config.num_experts[static_cast<std::size_t>(l)];
      for (int e = 0; e < num_experts; ++e) {
        for (int source = 0; source < comm.size(); ++source) {
          const bool here = e == 0 ? source == comm.rank() : e % comm.size() == comm.rank();
          if (!here) continue;
          std::vector<FakeRow> rows;
          for (const auto& row : all[static_cast<std::size_t>(source)])
            if (num_experts == 1 || chosen_expert(row, l, num_experts) == e) rows.push_back(row);
          const int site = num_experts == 1 ? -1 : e;
          offer(observer, {l, model::Projection::gate, site}, config.intermediate_size, rows);
          offer(observer, {l, model::Projection::up, site}, config.intermediate_size, rows);
          offer(observer, {l, model::Projection::down, site}, config.hidden_size, rows);
        }
      }
    }
  };
}

// Mean response of a unit to a sample by plain loops; `expert` < 0 takes all tokens.
float plain_response(const SampleSet& set, std::size_t s, const model::ActivationSite& site,
                     std::int64_t unit, int num_experts, bool skip_bos, std::int64_t* tokens = nullptr) {
  float sum = 0.0F;
  std::int64_t count = 0;
  const auto& ids = set.samples[s].ids;
  for (std::size_t t = skip_bos ? 1 : 0; t < ids.size(); ++t) {
    const FakeRow row{ids[t], static_cast<std::int32_t>(t), 0};
    if (site.expert >= 0 && chosen_expert(row, site.layer, num_experts) != site.expert) continue;
    sum += fake_value(site, unit, row.id, row.position);
    ++count;
  }
  if (tokens != nullptr) *tokens = count;
  return count > 0 ? sum / static_cast<float>(count) : 0.0F;
}

double plain_ap(const std::vector<float>& responses, const SampleSet& set, int language) {
  std::vector<std::uint8_t> labels;
  for (const auto& sample : set.samples) labels.push_back(sample.language == language ? 1 : 0);
  return average_precision(responses, labels);
}

template <typename T>
void check_same(const std::vector<std::vector<T>>& a, const std::vector<std::vector<T>>& b) {
  BOOST_REQUIRE(a.size() == b.size());
  for (std::size_t g = 0; g < a.size(); ++g) BOOST_TEST(a[g] == b[g], boost::test_tools::per_element());
}
template <typename T>  // NaN in the same places is the same
void check_same_or_nan(const std::vector<std::vector<T>>& a, const std::vector<std::vector<T>>& b) {
  BOOST_REQUIRE(a.size() == b.size());
  for (std::size_t g = 0; g < a.size(); ++g)
    for (std::size_t n = 0; n < a[g].size(); ++n)
      BOOST_TEST((a[g][n] == b[g][n] || (a[g][n] != a[g][n] && b[g][n] != b[g][n])));
}

void check_same(const NeuronStatistics& a, const NeuronStatistics& b) {
  for_each_statistic(
      a, b, [](std::string_view, const auto& x, const auto& y, const StatisticInfo&) { check_same(x, y); });
  BOOST_TEST(a.similarity == b.similarity, boost::test_tools::per_element());
}

}  // namespace

BOOST_AUTO_TEST_CASE(neurons_have_the_same_bits_on_any_rank_count) {
  const auto config = fake_config({1, 1});
  const SampleSet samples = toy_samples();
  AnalysisConfig options;
  options.batch_tokens = 40;  // many uneven batches; the last round leaves ranks empty
  options.languages = "el,en";
  options.top_k = 9;
  options.ap_min = 0.2;
  TestContext many(world());
  const auto result = analyse_neurons(many.context, options, config, samples, dense_model(config));
  const auto alone = comm::make_local_communicator();
  TestContext one(*alone);
  const auto expected = analyse_neurons(one.context, options, config, samples, dense_model(config));
  if (world().rank() != 0) {
    BOOST_TEST(result.ap.empty());
    return;
  }
  check_same(result, expected);
  BOOST_TEST(result.selected[0].neurons.size() == 9U);
  const ModuleTable table(config);
  for (std::size_t g = 0; g < 2; ++g) {
    for (const auto& module : table.modules()) {
      std::vector<double> responses;
      std::vector<std::uint8_t> labels;
      for (std::size_t s = 0; s < samples.samples.size(); ++s) {
        responses.push_back(static_cast<double>(
            plain_response(samples, s, {module.layer, module.projection, -1}, 2, 1, false)));
        labels.push_back(samples.languages[static_cast<std::size_t>(samples.samples[s].language)] ==
                                 result.languages[g]
                             ? 1
                             : 0);
      }
      BOOST_TEST(result.separation[g][static_cast<std::size_t>(module.offset + 2)] ==
                     static_cast<float>(separation(responses, labels)),
                 boost::test_tools::tolerance(1e-6F));
    }
  }
  BOOST_TEST(result.languages[0] == "el");
  BOOST_TEST(result.n_pos[0] + result.n_neg[0] == static_cast<std::uint64_t>(samples.size()));
  BOOST_TEST(result.n_dropped[0] > 0U);  // sentences of 30 letters and BOS exceed 29 tokens
}

// Unit 1 has the same response in every module: 14 neurons tie, whatever their AP. Every order of ties
// selects the same neurons on any number of ranks.
BOOST_AUTO_TEST_CASE(ties_fall_alike_on_any_rank_count) {
  const auto config = fake_config({1, 1});
  const SampleSet samples = toy_samples();
  AnalysisConfig options;
  options.batch_tokens = 40;
  options.ap_min = 0.0;
  TestContext many(world());
  const auto alone = comm::make_local_communicator();
  TestContext one(*alone);
  std::set<std::vector<std::uint64_t>> seen;
  for (const Ties ties : {Ties::random, Ties::uuid, Ties::separation}) {
    options.ties = ties;
    int cut_ties = 0;
    for (const std::int64_t top_k : {5, 11, 20, 40, 60}) {
      options.top_k = top_k;
      const auto result = analyse_neurons(many.context, options, config, samples, dense_model(config));
      const auto expected = analyse_neurons(one.context, options, config, samples, dense_model(config));
      if (world().rank() != 0) continue;
      for (std::size_t g = 0; g < 3; ++g) {
        std::vector<std::uint64_t> uuids, wanted;
        for (const auto& neuron : result.selected[g].neurons) uuids.push_back(neuron.uuid);
        for (const auto& neuron : expected.selected[g].neurons) wanted.push_back(neuron.uuid);
        BOOST_TEST(uuids == wanted, boost::test_tools::per_element());
        BOOST_TEST((result.selected[g].ties == ties));
        BOOST_TEST(result.selected[g].cut.tied == expected.selected[g].cut.tied);
        if (!result.selected[g].cut.decide()) continue;
        ++cut_ties;
        seen.insert(uuids);
      }
    }
    if (world().rank() == 0) BOOST_TEST(cut_ties > 0);
  }
  if (world().rank() == 0) BOOST_TEST(seen.size() > 2U);
}

// A language and the negatives of its own file: nobody else's sentences count, and one language is enough.
BOOST_AUTO_TEST_CASE(own_negatives_equal_plain_loops) {
  const auto config = fake_config({1, 1});
  const ByteTokenizer tokenizer(true);
  std::vector<SensePool> pools;
  const char* names[] = {"en", "el"};
  for (int g = 0; g < 2; ++g) {
    pools.push_back({names[g], "toy", "none", toy_sentences(g, 20)});
    pools.back().negatives = toy_sentences(2, 17 + g);
  }
  AnalysisConfig options;
  options.batch_tokens = 40;
  options.top_k = 9;
  options.ap_min = 0.0;
  TestContext many(world());
  const auto alone = comm::make_local_communicator();
  TestContext one(*alone);
  const SampleSet both = tokenize_pools(pools, tokenizer, 29);
  const auto result = analyse_neurons(many.context, options, config, both, dense_model(config));
  check_same(result, [&] {
    const auto expected = analyse_neurons(one.context, options, config, both, dense_model(config));
    return world().rank() == 0 ? expected : NeuronStatistics{};
  }());
  for (std::size_t g = 0; g < 2; ++g) {
    const SampleSet own = tokenize_pools({&pools[g], 1}, tokenizer, 29);
    const auto single = analyse_neurons(many.context, options, config, own, dense_model(config));
    if (world().rank() != 0) continue;
    BOOST_TEST(single.n_pos[0] == result.n_pos[g]);
    BOOST_TEST(single.n_neg[0] == result.n_neg[g]);
    BOOST_TEST(result.n_neg[g] == static_cast<std::uint64_t>(both.num_negatives[g]));
    BOOST_TEST(both.num_negatives[g] + both.num_dropped_negatives[g] == static_cast<std::int64_t>(17 + g));
    BOOST_TEST(single.ap[0] == result.ap[g], boost::test_tools::per_element());
    const ModuleTable table(config);
    for (const auto& module : table.modules()) {
      std::vector<float> responses;
      std::vector<std::uint8_t> labels;
      for (std::size_t s = 0; s < own.samples.size(); ++s) {
        responses.push_back(plain_response(own, s, {module.layer, module.projection, -1}, 2, 1, false));
        labels.push_back(own.samples[s].negative ? 0 : 1);
      }
      BOOST_TEST(std::abs(single.ap[0][static_cast<std::size_t>(module.offset + 2)] -
                          average_precision(responses, labels)) <= 1e-14);
    }
  }
}

BOOST_AUTO_TEST_CASE(slabs_of_modules_and_redrawn_pools_change_no_bit) {
  const auto config = fake_config({1, 1});
  SampleSet samples = toy_samples();
  // Language g takes part in what its own and the next language's samples are, by a rule of the index.
  for (std::size_t s = 0; s < samples.samples.size(); ++s)
    samples.samples[s].drawn_for = {static_cast<std::uint8_t>(s % 2), 1,
                                    static_cast<std::uint8_t>(s % 3 != 0)};
  AnalysisConfig options;
  options.batch_tokens = 40;
  options.top_k = 9;
  options.ap_min = 0.2;
  TestContext many(world());
  const auto whole = analyse_neurons(many.context, options, config, samples, dense_model(config));
  options.memory_mb = 0;  // every module alone
  int passes = 0;
  const auto counted = [&](const model::Batch& batch, model::ActivationObserver& observer) {
    ++passes;
    dense_model(config)(batch, observer);
  };
  const auto slabs = analyse_neurons(many.context, options, config, samples, counted);
  BOOST_TEST(passes % 14 == 0);
  BOOST_TEST(passes >= 14);
  if (world().rank() != 0) return;
  check_same(slabs, whole);
  check_same_or_nan(slabs.lape.probability, whole.lape.probability);
  const ModuleTable table(config);
  for (const auto& module : table.modules()) {
    for (int g = 0; g < 3; ++g) {
      std::vector<float> responses;
      std::vector<std::uint8_t> labels;
      for (std::size_t s = 0; s < samples.samples.size(); ++s) {
        if (samples.samples[s].drawn_for[static_cast<std::size_t>(g)] == 0) continue;
        responses.push_back(plain_response(samples, s, {module.layer, module.projection, -1}, 2, 1, false));
        labels.push_back(samples.samples[s].language == g ? 1 : 0);
      }
      const auto at = static_cast<std::size_t>(module.offset + 2);
      BOOST_TEST(std::abs(whole.ap[static_cast<std::size_t>(g)][at] - average_precision(responses, labels)) <=
                 1e-14);
    }
  }
}

BOOST_AUTO_TEST_CASE(activation_probabilities_equal_plain_counts) {
  const auto config = fake_config({1, 1});
  const SampleSet samples = toy_samples();
  AnalysisConfig options;
  options.batch_tokens = 40;
  options.top_k = 9;
  options.ap_min = 0.2;
  options.languages = "tr,en";
  TestContext many(world());
  const auto result = analyse_neurons(many.context, options, config, samples, dense_model(config));
  if (world().rank() != 0) return;
  const Lape& lape = result.lape;
  const int pool_of[] = {2, 0};
  for (const auto& module : result.modules.modules()) {
    for (std::int64_t u = 0; u < module.width; ++u) {
      const auto uuid = static_cast<std::size_t>(module.offset + u);
      if (module.projection != model::Projection::gate) {
        BOOST_TEST(std::isnan(lape.entropy[uuid]));
        continue;
      }
      std::vector<double> p;
      for (const int language : pool_of) {
        double fired = 0.0, tokens = 0.0;
        for (const auto& sample : samples.samples)
          for (std::size_t t = 0; t < sample.ids.size() && sample.language == language; ++t, ++tokens)
            fired += fake_value({module.layer, module.projection, -1}, u, sample.ids[t],
                                static_cast<std::int64_t>(t)) > 0
                         ? 1.0
                         : 0.0;
        p.push_back(fired / tokens);
        BOOST_TEST(lape.probability[p.size() - 1][uuid] == static_cast<float>(p.back()));
      }
      BOOST_TEST(lape.entropy[uuid] == activation_entropy(p));
    }
  }
}

BOOST_AUTO_TEST_CASE(similarity_from_documents) {
  const auto config = fake_config({1, 1});
  const SampleSet samples = toy_samples(), documents = toy_samples(5);
  AnalysisConfig options;
  options.batch_tokens = 40;
  options.top_k = 9;
  options.ap_min = 0.2;
  TestContext many(world());
  const auto result =
      analyse_neurons(many.context, options, config, samples, dense_model(config), {&documents});
  const auto alone = analyse_neurons(many.context, options, config, documents, dense_model(config));
  const auto without = analyse_neurons(many.context, options, config, samples, dense_model(config));
  if (world().rank() != 0) return;
  BOOST_TEST(result.similarity == alone.similarity, boost::test_tools::per_element());
  BOOST_TEST((result.similarity != without.similarity));
  check_same(result.ap, without.ap);
}

BOOST_AUTO_TEST_CASE(neurons_equal_plain_loops) {
  const auto config = fake_config({1, 1});
  const SampleSet samples = toy_samples();
  TestContext many(world());
  for (const bool skip_bos : {false, true}) {
    AnalysisConfig options;
    options.batch_tokens = 50;
    options.skip_bos = skip_bos;
    options.top_k = 5;
    options.ap_min = 0.2;
    const auto result = analyse_neurons(many.context, options, config, samples, dense_model(config));
    if (world().rank() != 0) continue;
    const ModuleTable table(config);
    for (const auto& module : table.modules()) {
      for (std::int64_t u = 0; u < module.width; ++u) {
        std::vector<float> responses;
        for (std::size_t s = 0; s < samples.samples.size(); ++s)
          responses.push_back(
              plain_response(samples, s, {module.layer, module.projection, -1}, u, 1, skip_bos));
        for (int g = 0; g < 3; ++g)
          BOOST_TEST(
              std::abs(result.ap[static_cast<std::size_t>(g)][static_cast<std::size_t>(module.offset + u)] -
                       plain_ap(responses, samples, g)) <= 1e-14);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(layer_similarity_equals_all_pairs) {
  const auto config = fake_config({1, 1});
  const SampleSet samples = toy_samples(5);
  AnalysisConfig options;
  options.batch_tokens = 40;
  options.top_k = 5;
  options.ap_min = 0.2;
  TestContext many(world());
  const auto result = analyse_neurons(many.context, options, config, samples, dense_model(config));
  if (world().rank() != 0) return;
  for (int l = 0; l < 2; ++l) {
    std::vector<std::vector<std::vector<double>>> units(3);
    for (const auto& sample : samples.samples) {
      for (std::size_t t = 0; t < sample.ids.size(); ++t) {
        std::vector<double> x;
        double norm = 0.0;
        for (std::int64_t d = 0; d < config.hidden_size; ++d) {
          x.push_back(static_cast<double>(fake_value({l, model::Projection::mlp_input, -1}, d, sample.ids[t],
                                                     static_cast<std::int64_t>(t))));
          norm += x.back() * x.back();
        }
        for (double& v : x) v /= std::sqrt(norm);
        units[static_cast<std::size_t>(sample.language)].push_back(x);
      }
    }
    double sum = 0.0;
    for (const auto& a : units[0])
      for (const auto& b : units[2])
        for (std::size_t d = 0; d < a.size(); ++d) sum += a[d] * b[d];
    const double expected = sum / static_cast<double>(units[0].size() * units[2].size());
    // pair 1 = (en, tr); fixed-point steps of 2^-38 per component
    BOOST_TEST(std::abs(result.similarity[static_cast<std::size_t>(2 + l)] - expected) < 1e-10);
  }
  BOOST_TEST(result.similarity_pairs[1].second == "tr");
}

BOOST_AUTO_TEST_CASE(experts_have_the_same_bits_and_equal_plain_loops) {
  const auto config = fake_config({4, 1, 2});
  const SampleSet samples = toy_samples();
  const auto alone = comm::make_local_communicator();
  TestContext many(world()), one(*alone);
  for (const EmptyPolicy empty : {EmptyPolicy::zero, EmptyPolicy::exclude, EmptyPolicy::neg_inf}) {
    AnalysisConfig options;
    options.batch_tokens = 40;
    options.empty = empty;
    options.ap_high = 0.5;
    const auto result =
        analyse_experts(many.context, options, config, samples, expert_model(config, world()));
    const auto expected =
        analyse_experts(one.context, options, config, samples, expert_model(config, *alone));
    if (world().rank() != 0) continue;
    check_same(result.neurons, expected.neurons);
    BOOST_TEST(result.count_tokens == expected.count_tokens, boost::test_tools::per_element());
    BOOST_REQUIRE(result.experts.size() == 7U);
    std::size_t expert = 0, neuron = 0;
    std::int64_t zero_samples = 0;
    for (const auto& module : result.neurons.modules.modules()) {
      const int e = config.is_moe(module.layer) ? module.expert : -1;
      std::int64_t high = 0;
      for (std::int64_t u = 0; u < module.width; ++u, ++neuron) {
        std::vector<float> responses;
        std::vector<std::uint8_t> labels;
        for (std::size_t s = 0; s < samples.samples.size(); ++s) {
          std::int64_t tokens = 0;
          float response =
              plain_response(samples, s, {module.layer, module.projection, e}, u,
                             config.num_experts[static_cast<std::size_t>(module.layer)], false, &tokens);
          BOOST_TEST(result.count_tokens[expert * samples.samples.size() + s] ==
                     static_cast<std::uint64_t>(tokens));
          if (tokens == 0 && options.empty == EmptyPolicy::exclude) continue;
          if (tokens == 0 && options.empty == EmptyPolicy::neg_inf) response = -INFINITY;
          responses.push_back(response);
          labels.push_back(samples.samples[s].language == 1 ? 1 : 0);
        }
        BOOST_TEST(std::abs(result.neurons.ap[1][neuron] - average_precision(responses, labels)) <= 1e-14);
        if (result.neurons.ap[1][neuron] >= 0.5) ++high;
      }
      BOOST_TEST(result.experts[expert].high_ap[1] >= high);
      if (module.projection == model::Projection::up)
        zero_samples += result.experts[expert++].zero_samples[0];
    }
    BOOST_TEST(zero_samples > 0);  // the toy routing leaves some experts without a token of short sentences
    BOOST_TEST(result.experts[0].total == 26);
    BOOST_TEST(expert_csv(result, 1).rfind("layer,expert,total,high_ap,ratio_percent\n0,base,26,", 0) == 0U);
  }
}

BOOST_AUTO_TEST_CASE(expert_file_can_be_read_back) {
  const auto config = fake_config({2, 1});
  const SampleSet samples = toy_samples();
  TestContext many(world());
  const SharedDirectory directory("expert_file");
  AnalysisConfig options;
  const auto result = analyse_experts(many.context, options, config, samples, expert_model(config, world()));
  if (world().rank() != 0) return;
  const std::string path = directory.path() + "/expert_neurons.h5";
  write_expert_file(path, result);
  io::H5File file = io::H5File::open(path, io::FileFormat{"neuronmoe-expert-neurons"});
  BOOST_TEST(file.read<std::uint64_t>("/count_tokens") == result.count_tokens,
             boost::test_tools::per_element());
  BOOST_TEST(file.read<double>("/ap").size() == 3U * 78U);
  const std::vector<std::uint32_t> ids = {0, 1, 0};
  BOOST_TEST(file.read<std::uint32_t>("/expert/id") == ids, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(probes_of_a_training_run_are_appended_and_replaced) {
  const auto config = fake_config({2, 1});
  const SampleSet samples = toy_samples();
  TestContext many(world());
  const SharedDirectory directory("expert_probe");
  const std::string path = directory.path() + "/expert_probe.h5";
  AnalysisConfig options;
  auto probe = analyse_experts(many.context, options, config, samples, expert_model(config, world()));
  if (world().rank() != 0) return;
  append_probe(path, 10, probe);
  probe.experts[1].high_ap[0] = 77;
  append_probe(path, 20, probe);
  probe.experts[1].high_ap[0] = 55;
  append_probe(path, 30, probe);
  probe.experts[1].high_ap[0] = 33;
  append_probe(path, 20, probe);  // resumed from an earlier checkpoint: 20 and 30 are of the past
  io::H5File file = io::H5File::open(path, io::FileFormat{"neuronmoe-expert-probe"});
  const std::vector<std::uint64_t> steps = {10, 20};
  BOOST_TEST(file.read<std::uint64_t>("/step") == steps, boost::test_tools::per_element());
  const auto high = file.read<std::uint64_t>("/high_ap");
  BOOST_REQUIRE(high.size() == 2U * 3U * 3U);
  BOOST_TEST(high[1 * 9 + 0 * 3 + 1] == 33U);
  const auto tokens = file.read<std::uint64_t>("/num_tokens");
  std::uint64_t all = 0;
  for (const auto& sample : samples.samples) all += sample.language == 0 ? sample.ids.size() : 0;
  BOOST_TEST(tokens[2] == all);              // the dense layer's base sees every token of language 0
  BOOST_TEST(tokens[0] + tokens[1] == all);  // the toy router sends each token to one of two
  file.close();
  probe.neurons.languages[0] = "xx";
  BOOST_CHECK_THROW(append_probe(path, 40, probe), Error);
  io::write_h5_atomically(path, io::Storage::contiguous, [](io::H5File& later) {
    later.write_format({"neuronmoe-expert-probe", 2});
  });
  BOOST_CHECK_EXCEPTION(append_probe(path, 40, probe), Error, [](const Error& e) {
    return e.code() == ErrorCode::bad_data && std::string(e.what()).find("use a newer") != std::string::npos;
  });
}

BOOST_AUTO_TEST_CASE(nan_response_is_an_error_on_every_rank) {
  const auto config = fake_config({1, 1});
  const SampleSet samples = toy_samples();
  const auto poisoned = [&](const model::Batch& batch, model::ActivationObserver& observer) {
    dense_model(config)(batch, observer);
    const float nan = std::nanf("");
    std::vector<float> row(3, 0.0F);
    row[2] = nan;
    const std::int32_t sample = 0;  // the first sample of each round is seen again, on the rank that runs it
    if (batch.num_tokens() > 0 && batch.row_sample.data<std::int32_t>()[0] == 0)
      observer.observe({1, model::Projection::v, -1}, ConstTensorView(row.data(), DType::float32, {1, 3}),
                       ConstTensorView(&sample, DType::int32, {1}));
  };
  TestContext many(world());
  AnalysisConfig options;
  options.top_k = 5;
  options.ap_min = 0.2;
  BOOST_CHECK_EXCEPTION(
      analyse_neurons(many.context, options, config, samples, poisoned), Error, [](const Error& e) {
        const std::string what = e.what();
        return e.code() == ErrorCode::bad_data &&
               what.find("model.layers.1.self_attn.v_proj:0: neuron 2") != std::string::npos;
      });
}

BOOST_AUTO_TEST_CASE(score_file_over_ranks) {
  TestContext many(world());
  const SharedDirectory directory("score");
  const std::string input = directory.path() + "/matrix.h5", output = directory.path() + "/scores.h5";
  const std::vector<std::int64_t> labels = {0, 1, 2, 0, 1, 2, 0};
  for (const bool wide : {false, true}) {
    std::vector<float> values;
    const Philox random(5, RandomPurpose::test);
    for (std::uint64_t i = 0; i < 5 * 7; ++i)
      values.push_back(static_cast<float>(std::round(3.0 * random.normal(i))));
    if (world().rank() == 0) {
      io::write_h5_atomically(input, io::Storage::contiguous, [&](io::H5File& file) {
        if (wide)
          file.write("/responses", std::vector<double>(values.begin(), values.end()), {5, 7});
        else
          file.write("/responses", values, {5, 7});
        file.write("/labels", labels);
      });
    }
    world().barrier();
    // Slabs of all rows, and of one row each.
    score_responses(many.context, {input, "", wide ? 1 : 1 << 20}, output, {});
    if (world().rank() != 0) continue;
    io::H5File file = io::H5File::open(output, io::FileFormat{"neuronmoe-scores"});
    const auto ap = file.read<double>("/ap");
    const auto off_p50 = file.read<float>("/off_p50");
    BOOST_REQUIRE(ap.size() == 15U);
    for (std::size_t g = 0; g < 3; ++g) {
      for (std::size_t n = 0; n < 5; ++n) {
        std::vector<std::uint8_t> is(7);
        std::vector<double> off;
        for (std::size_t s = 0; s < 7; ++s) {
          is[s] = labels[s] == static_cast<std::int64_t>(g) ? 1 : 0;
          if (is[s] == 0) off.push_back(static_cast<double>(values[n * 7 + s]));
        }
        std::sort(off.begin(), off.end());
        BOOST_TEST(std::abs(ap[g * 5 + n] - average_precision(std::span(values).subspan(n * 7, 7), is)) <=
                   1e-15);
        BOOST_TEST(off_p50[g * 5 + n] == static_cast<float>(percentile_sorted(off, 0.5)));
      }
    }
  }
  BOOST_CHECK_THROW(score_responses(many.context, {directory.path() + "/none.h5", ""}, output, {}), Error);
  BOOST_CHECK_THROW(score_responses(many.context, {input, "4x4x2"}, output, {}), Error);
}

BOOST_AUTO_TEST_CASE(slabs_change_nothing) {
  TestContext many(world());
  const SharedDirectory directory("slabs");
  std::vector<std::string> contents;
  for (const std::int64_t bytes : {1 << 30, 4 * 90 * 7, 1}) {  // all at once, seven neurons, one
    const std::string output = directory.path() + "/scores.h5";
    score_responses(many.context, {"", "50x90x3", bytes}, output, {});
    if (world().rank() == 0) contents.push_back(io::read_file(output));
    world().barrier();
  }
  if (world().rank() != 0) return;
  BOOST_TEST((contents[0] == contents[1] && contents[0] == contents[2]));
  const auto alone = comm::make_local_communicator();
  TestContext one(*alone);
  score_responses(one.context, {"", "50x90x3"}, directory.path() + "/alone.h5", {});
  BOOST_TEST((contents[0] == io::read_file(directory.path() + "/alone.h5")));
}

BOOST_AUTO_TEST_CASE(synthetic_sizes_are_checked) {
  TestContext many(world());
  for (const char* bad : {"", "5", "5x6", "5x6x", "5x6x1", "5x2x3", "0x6x2", "-5x6x2", "5x6x2x", "axbxc"})
    BOOST_CHECK_THROW(score_responses(many.context, {"", bad}, "none.h5", {}), Error);
}
