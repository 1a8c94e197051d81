// The list of statistics: what files and documentation make of it, and scores of float64 rows.
#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <cstdlib>

#include "neuronmoe/analysis/neuron_file.hpp"
#include "neuronmoe/base/philox.hpp"
#include "neuronmoe/io/hdf5_file.hpp"
#include "support/temp_dir.hpp"

using namespace nmoe;
using namespace nmoe::analysis;
using namespace nmoe::test;

namespace {

/// Two languages and three neurons, whose k-th statistic is 100·k + 10·language + neuron.
NeuronStatistics numbered_statistics() {
  NeuronStatistics s;
  s.modules = ModuleTable({{"model.layers.0.mlp.up_proj:0", 0, model::Projection::up, -1, 3, 0}});
  s.languages = {"en", "el"};
  std::vector<NeuronScore> scores;
  for (int n = 0; n < 3; ++n) {
    for (int g = 0; g < 2; ++g) {
      const auto x = static_cast<float>(10 * g + n);
      scores.push_back({static_cast<double>(x), 100 + x, 200 + x, 300 + x, 400 + x, 500 + x});
    }
  }
  append_scores(s, scores);
  s.selected.resize(2);
  s.n_pos = s.n_neg = s.n_tokens = s.n_dropped = {1, 1};
  return s;
}

}  // namespace

// Names, types and order as METHOD 1.6 has them, not as the list has them.
BOOST_AUTO_TEST_CASE(files_hold_the_statistics_of_the_method) {
  const TempDir folder;
  const std::string path = folder / "neurons.h5";
  const NeuronStatistics written = numbered_statistics();
  write_neuron_file(path, written);
  io::H5File file = io::H5File::open(path);
  double first = 0.0;
  for (const char* name : {"/ap", "/off_mean", "/off_p50", "/on_p50", "/on_p90", "/separation"}) {
    BOOST_TEST_CONTEXT(name) {
      const bool wide = std::string(name) == "/ap";
      const io::DatasetInfo info = file.info(name);
      BOOST_TEST((info.type == (wide ? io::ElementType::float64 : io::ElementType::float32)));
      const std::int64_t shape[] = {2, 3};
      std::vector<double> values;
      if (wide) {
        values = file.read<double>(name, shape);
      } else {
        const auto narrow = file.read<float>(name, shape);
        values.assign(narrow.begin(), narrow.end());
      }
      const std::vector<double> expected = {first, first + 1, first + 2, first + 10, first + 11, first + 12};
      BOOST_TEST(values == expected, boost::test_tools::per_element());
      first += 100;
    }
  }
  file.close();
  NeuronStatistics back = read_neuron_file(path);
  for_each_statistic(back, written,
                     [](std::string_view name, const auto& a, const auto& b, const StatisticInfo&) {
                       BOOST_TEST((a == b), name);
                     });
}

BOOST_AUTO_TEST_CASE(documentation_has_the_list) {
  std::string table = "| name | stored as | |\n|---|---|---|\n";
  NeuronScore score;
  for_each_statistic(score, [&](std::string_view name, const auto& value, const StatisticInfo& info) {
    table += fmt::format("| `{}` | {} | {} |\n", name,
                         sizeof(value) == sizeof(double) ? "float64" : "float32", info.help);
  });
  const std::string page = read_bytes(std::string(std::getenv("NMOE_TEST_SOURCE_DIR")) + "/docs/formats.md");
  BOOST_TEST(page.find("\n" + table + "\n") != std::string::npos, "docs/formats.md lacks this table:\n"
                                                                      << table);
}

// Rows that float32 would round to ties, and one that it holds exactly.
BOOST_AUTO_TEST_CASE(float64_rows_are_not_rounded) {
  constexpr std::size_t samples = 60, rows = 3;
  const Philox random(9, RandomPurpose::test);
  std::vector<int> language_of_sample;
  for (std::size_t s = 0; s < samples; ++s)
    language_of_sample.push_back(static_cast<int>(random.below(s, 3)));
  const SampleRoles roles = shared_pool_roles(language_of_sample, 3, std::vector<int>{2, 0});
  std::vector<double> responses;
  for (std::size_t i = 0; i < rows * samples; ++i) {
    const double x = random.normal(i);
    responses.push_back(i / samples == 1 ? static_cast<double>(static_cast<float>(x)) : 1.0 + 1e-9 * x);
  }
  std::vector<NeuronScore> scores(rows * 2);
  score_rows(responses, roles, scores);
  for (std::size_t i = 0; i < scores.size(); ++i) {
    const auto row = std::span<const double>(responses).subspan(i / 2 * samples, samples);
    std::vector<std::uint8_t> labels;
    std::vector<double> on, off;
    double off_sum = 0.0;
    for (std::size_t s = 0; s < samples; ++s) {
      labels.push_back(language_of_sample[s] == (i % 2 == 0 ? 2 : 0) ? 1 : 0);
      (labels.back() == 1 ? on : off).push_back(row[s]);
      off_sum += labels.back() == 1 ? 0.0 : row[s];
    }
    std::sort(on.begin(), on.end());
    std::sort(off.begin(), off.end());
    BOOST_TEST(std::abs(scores[i].ap - average_precision(row, labels)) <= 1e-14);
    BOOST_TEST(scores[i].off_p50 == static_cast<float>(percentile_sorted(off, 0.5)));
    BOOST_TEST(scores[i].on_p50 == static_cast<float>(percentile_sorted(on, 0.5)));
    BOOST_TEST(scores[i].on_p90 == static_cast<float>(percentile_sorted(on, 0.9)));
    BOOST_TEST(scores[i].separation == static_cast<float>(separation(row, labels)),
               boost::test_tools::tolerance(1e-6F));
    BOOST_TEST(std::abs(scores[i].off_mean - off_sum / static_cast<double>(off.size())) <= 1e-7);
  }
  responses[samples * 2 + 5] = std::nan("");
  BOOST_TEST(expect_error(ErrorCode::bad_data, {"neuron 12: response of sample 5 is NaN"},
                          [&] { score_rows(responses, roles, scores, 10); }) == "");
}
