// The file of responses: the numbers that average precision is computed from, the same bytes on any number of
// ranks.
#include <fmt/format.h>

#include <boost/test/unit_test.hpp>
#include <cmath>
#include <filesystem>

#include "neuronmoe/analysis/average_precision.hpp"
#include "neuronmoe/analysis/response_file.hpp"
#include "neuronmoe/analysis/score.hpp"
#include "neuronmoe/io/hdf5_file.hpp"
#include "support/mpi_fixture.hpp"
#include "support/temp_dir.hpp"
#include "support/toy_analysis.hpp"

using namespace nmoe;
using namespace nmoe::analysis;
using namespace nmoe::test;

namespace {

constexpr io::FileFormat format{"neuronmoe-responses", 1};

AnalysisConfig small_options() {
  AnalysisConfig options;
  options.batch_tokens = 40;  // many uneven batches; the last round leaves ranks empty
  options.top_k = 9;
  options.ap_min = 0.2;
  return options;
}

struct Run {
  NeuronStatistics statistics;
  std::vector<Module> modules;
};

/// Analyzes the toy model and writes the responses of the modules `wanted`.
Run analyze(comm::ExecutionContext& context, const AnalysisConfig& options, const SampleSet& samples,
            const std::string& wanted, const std::string& path) {
  const auto config = fake_config({1, 1});
  const Provenance provenance{"model", "tokenizer", "corpus", "toy", "none"};
  Run run{{}, find_modules(wanted, ModuleTable(config))};
  write_response_file(context, {path, run.modules, samples, provenance}, [&](const ResponseSink& sink) {
    run.statistics = analyse_neurons(context, options, config, samples, dense_model(config), {nullptr, sink});
  });
  return run;
}

/// Mean over the tokens of a sentence, by a plain loop.
float plain_response(const SampleSet::Sample& sample, const Module& module, std::int64_t unit) {
  float sum = 0.0F;
  for (std::size_t t = 0; t < sample.ids.size(); ++t)
    sum +=
        fake_value({module.layer, module.projection, -1}, unit, sample.ids[t], static_cast<std::int64_t>(t));
  return sum / static_cast<float>(sample.ids.size());
}

std::vector<std::string> names_of(const std::string& wanted) {
  std::vector<std::string> names;
  for (const Module& module : find_modules(wanted, ModuleTable(fake_config(std::vector<int>(12, 1)))))
    names.push_back(module.name);
  return names;
}

}  // namespace

BOOST_AUTO_TEST_CASE(responses_are_what_average_precision_is_computed_from) {
  TestContext many(world());
  const SharedDirectory directory("responses");
  const SampleSet samples = toy_samples();
  const std::string path = directory.path() + "/responses.h5";
  const Run run = analyze(many.context, small_options(), samples, "layers.1, k_proj", path);
  score_responses(many.context, {path, ""}, directory.path() + "/scores.h5", {});
  if (world().rank() != 0) return;
  io::H5File file = io::H5File::open(path, format);  // sealed and complete
  const std::int64_t neurons = run.modules.back().width + 6 + 2 * 10 + 3 + 6 + 9 + 3;
  BOOST_TEST(run.modules.size() == 8U);
  const std::int64_t shape[] = {neurons, samples.size()};
  const auto responses = file.read<float>("/responses", shape);
  const auto labels = file.read<std::int32_t>("/labels");
  const auto widths = file.read<std::uint64_t>("/module/width");
  const auto offsets = file.read<std::uint64_t>("/module/offset");
  const auto first_neuron = file.read<std::int64_t>("/module/first_neuron");
  BOOST_TEST(file.read_strings("/label_name") == samples.languages, boost::test_tools::per_element());
  io::H5File scores = io::H5File::open(directory.path() + "/scores.h5");
  const auto ap = scores.read<double>("/ap");
  std::size_t row = 0;
  for (std::size_t m = 0; m < run.modules.size(); ++m) {
    BOOST_TEST(file.read_strings("/module/name")[m] == run.modules[m].name);
    BOOST_TEST(widths[m] == static_cast<std::uint64_t>(run.modules[m].width));
    BOOST_TEST(offsets[m] == row);
    for (std::uint64_t unit = 0; unit < widths[m]; ++unit, ++row) {
      const auto of_neuron =
          std::span(responses).subspan(row * samples.samples.size(), samples.samples.size());
      for (std::size_t s = 0; s < of_neuron.size(); ++s)
        BOOST_REQUIRE(of_neuron[s] ==
                      plain_response(samples.samples[s], run.modules[m], static_cast<int>(unit)));
      for (std::size_t g = 0; g < 3; ++g) {
        const double wanted = run.statistics.ap[g][static_cast<std::size_t>(first_neuron[m]) + unit];
        std::vector<std::uint8_t> is;
        for (const std::int32_t label : labels) is.push_back(label == static_cast<int>(g) ? 1 : 0);
        BOOST_TEST(std::abs(average_precision(of_neuron, is) - wanted) <= 1e-15);
        BOOST_TEST(ap[g * static_cast<std::size_t>(neurons) + row] == wanted);  // `score`, of the file alone
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(bytes_do_not_depend_on_ranks_and_passes) {
  TestContext many(world());
  const SharedDirectory directory("responses_alone");
  const SampleSet samples = toy_samples();
  AnalysisConfig options = small_options();
  const std::string path = directory.path() + "/responses.h5", in_passes = directory.path() + "/passes.h5";
  analyze(many.context, options, samples, "mlp.gate_proj,layers.0", path);
  options.memory_mb = 0;  // a module at a time
  analyze(many.context, options, samples, "layers.0, gate_proj", in_passes);
  const auto alone = world().split(world().rank(), 0);
  TestContext one(*alone);
  const std::string mine = fmt::format("{}/alone{}.h5", directory.path(), world().rank());
  analyze(one.context, small_options(), samples, "layers.0,layers.1.mlp.gate_proj:0", mine);
  BOOST_TEST((read_bytes(path) == read_bytes(mine)));
  BOOST_TEST((read_bytes(path) == read_bytes(in_passes)));
  world().barrier();
}

BOOST_AUTO_TEST_CASE(samples_are_found_again_in_their_files) {
  TestContext many(world());
  const SharedDirectory directory("responses_samples");
  const std::string en = directory.path() + "/en.jsonl", el = directory.path() + "/el.json";
  if (world().rank() == 0) {
    write_bytes(en,
                "{\"text\": \"abc\"}\n\n{\"text\": \"far too long for this\"}\n{\"text\": "
                "\"bcd\"}\n{\"text\": \"c\"}\n");
    write_bytes(el, R"({"sentences": {"positive": ["xyz", "", "yz", "z"], "negative": ["", "abc"]}})");
  }
  world().barrier();
  const ByteTokenizer tokenizer(true);
  auto pools = read_sense_pools(std::vector<std::string>{"en:" + en, "el:" + el});
  draw_shared(pools, 4, 1);
  const SampleSet samples = tokenize_pools(pools, tokenizer, 9);
  analyze(many.context, small_options(), samples, "model", directory.path() + "/responses.h5");
  const std::vector<std::string> with_negatives{"el:" + el};
  const SampleSet own = tokenize_pools(read_sense_pools(with_negatives, Negatives::file), tokenizer, 9);
  world().barrier();
  if (world().rank() != 0) return;
  io::H5File file = io::H5File::open(directory.path() + "/responses.h5", format);
  const std::int64_t lines[] = {0, 3, 4, 0, 2, 3};  // the blank line counts, the long sentence is dropped
  BOOST_TEST(file.read<std::int64_t>("/sample/position") == lines, boost::test_tools::per_element());
  const std::int64_t tokens[] = {4, 4, 2, 4, 3, 2};
  BOOST_TEST(file.read<std::int64_t>("/sample/num_tokens") == tokens, boost::test_tools::per_element());
  const std::string files[] = {en, el};
  BOOST_TEST(file.read_strings("/file") == files, boost::test_tools::per_element());
  BOOST_TEST(!file.exists("/sample/drawn_for"));
  BOOST_TEST(own.samples.back().position == 1);

  draw_shared(pools, 2, 1);  // thinned twice: still the places in the file
  redraw_pools(pools, std::vector<int>{0, 1}, 2, 1);
  for (const auto& sample : tokenize_pools(pools, tokenizer, 9).samples) {
    const std::string texts[] = {"abc", "", "", "bcd", "c"}, greek[] = {"xyz", "", "yz", "z"};
    const auto at = static_cast<std::size_t>(sample.position);
    BOOST_TEST(std::string(sample.ids.begin() + 1, sample.ids.end()) ==
               (sample.language == 0 ? texts[at] : greek[at]));
  }
}

BOOST_AUTO_TEST_CASE(modules_are_named_by_parts_of_their_names) {
  BOOST_TEST(names_of("model").size() == 84U);
  BOOST_TEST(names_of("layers.1").size() == 7U);  // not 10 and 11
  BOOST_TEST(names_of("1") == names_of("layers.1"), boost::test_tools::per_element());
  BOOST_TEST(names_of("down_proj").size() == 12U);
  BOOST_TEST(names_of("layers.1.mlp, layers.1.mlp.up_proj,mlp.gate_proj").size() == 14U);
  BOOST_TEST(names_of("model.layers.10.self_attn.q_proj:0").size() == 1U);
  for (const char* bad : {"layers.12", "down", "up_proj:1", "mlp.k_proj", "layers.*"})
    BOOST_TEST(
        expect_error(ErrorCode::config,
                     {"analysis.response_modules: '", bad, "layers.0 to layers.11", "self_attn.v_proj"},
                     [&] { names_of(std::string("down_proj,") + bad); }) == "");
  BOOST_TEST(expect_error(ErrorCode::config, {"analysis.response_modules is not", "mlp.down_proj"},
                          [&] { names_of(" "); }) == "");
}

BOOST_AUTO_TEST_CASE(nothing_is_left_of_a_measurement_that_fails_or_finds_no_room) {
  TestContext many(world());
  const SharedDirectory directory("responses_failed");
  const std::string path = directory.path() + "/responses.h5";
  const SampleSet samples = toy_samples();
  const Provenance provenance;
  std::vector<Module> modules = find_modules("model", ModuleTable(fake_config({1})));
  const auto fail = [](const ResponseSink&) { throw Error(ErrorCode::bad_data, "no"); };
  BOOST_TEST(expect_error(ErrorCode::bad_data, {"no"}, [&] {
               write_response_file(many.context, {path, modules, samples, provenance}, fail);
             }) == "");
  modules[0].width = std::int64_t{1} << 46;
  BOOST_TEST(
      expect_error(ErrorCode::no_space, {path, "bytes are to be written", "analysis.response_modules"}, [&] {
        write_response_file(many.context, {path, modules, samples, provenance}, fail);
      }) == "");
  world().barrier();
  BOOST_TEST(std::filesystem::is_empty(directory.path()));
  world().barrier();
}
