// allocate from files: counts CSV with hostile contents, neurons.h5, and the experts.cfg it writes.
#include <fmt/format.h>
#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <filesystem>
#include <fstream>

#include "neuronmoe/analysis/allocate.hpp"
#include "neuronmoe/analysis/counts_csv.hpp"
#include "neuronmoe/analysis/layer_sizes.hpp"
#include "neuronmoe/analysis/neuron_file.hpp"
#include "neuronmoe/analysis/tie_range.hpp"
#include "neuronmoe/base/error.hpp"
#include "neuronmoe/io/atomic_file.hpp"
#include "neuronmoe/io/hdf5_file.hpp"
#include "neuronmoe/model/config.hpp"

using namespace nmoe;
using namespace nmoe::analysis;

namespace {

struct Folder {
  std::string path =
      (std::filesystem::temp_directory_path() / ("neuronmoe_alloc_" + std::to_string(::getpid()))).string();
  Folder() { std::filesystem::create_directories(path); }
  ~Folder() { std::filesystem::remove_all(path); }
  std::string write(const std::string& name, const std::string& text) const {
    std::ofstream(path + "/" + name) << text;
    return path + "/" + name;
  }
};

void refuses(const Folder& folder, const std::string& text, const std::vector<std::string>& columns,
             const std::string& expected) {
  const std::string path = folder.write("bad.csv", text);
  BOOST_CHECK_EXCEPTION(read_counts_csv(path, columns), Error, [&](const Error& e) {
    const std::string what = e.what();
    BOOST_TEST_MESSAGE(what);
    return e.code() == ErrorCode::bad_data && what.find(expected) != std::string::npos &&
           what.find("bad.csv") != std::string::npos;
  });
}

NeuronStatistics small_statistics() {
  NeuronStatistics s;
  model::ModelConfig config;
  config.num_layers = 2;
  config.hidden_size = 8;
  config.intermediate_size = 20;
  config.num_attention_heads = 4;
  config.num_key_value_heads = 2;
  config.head_dim = 2;
  config.num_experts = {1, 1};
  s.modules = ModuleTable(config);
  s.languages = {"en", "el"};
  std::vector<NeuronScore> scores;
  for (std::int64_t n = 0; n < s.modules.num_neurons(); ++n) {
    const auto x = static_cast<float>(n);
    scores.push_back({n < 10 ? 0.9 : 0.1, x, x + 1, x + 2, x + 3, -x});     // en: layer 0
    scores.push_back({n >= 140 ? 0.8 : 0.2, -x, 0.0F, 1.0F, 2.0F, x / 2});  // el: the last of layer 1
  }
  append_scores(s, scores);
  for (std::size_t g = 0; g < 2; ++g)
    s.selected.push_back(select_neurons(scores_of(s, g), s.modules, {10, 0.5, Ties::random, 7}));
  s.n_pos = s.n_neg = {5, 5};
  s.n_tokens = {50, 60};
  s.n_dropped = {0, 1};
  s.similarity_pairs = {{"en", "el"}};
  s.similarity = {0.25, -0.5};
  s.provenance = {"m", "t", "c", "[analysis]\n", "0.1", 7};
  return s;
}

}  // namespace

BOOST_AUTO_TEST_CASE(columns_are_summed) {
  const Folder folder;
  // Spreadsheet manners: byte order mark, CRLF, blanks, rows out of order, blank last line.
  const auto path =
      folder.write("counts.csv", "\xEF\xBB\xBFlayer, en,el\r\n2,30,3\r\n0,10,1\r\n1, 20 ,2\r\n\r\n");
  const auto counts = read_counts_csv(path, {"el", "en"});
  const std::vector<double> el = {1, 2, 3}, en = {10, 20, 30};
  BOOST_TEST(counts[0] == el, boost::test_tools::per_element());
  BOOST_TEST(counts[1] == en, boost::test_tools::per_element());
  AllocationConfig config;
  config.counts = path;
  config.columns = "en,el";
  config.e_max = 3;
  const Allocation allocation = allocate_from_files(config);  // S = 11, 22, 33
  const std::vector<int> expected = {1, 2, 3};
  BOOST_TEST(allocation.num_experts == expected, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(overlap_of_columns_is_taken_off) {
  const Folder folder;
  AllocationConfig config;
  config.counts = folder.write("counts.csv", "layer,en,hu\n0,10,0\n1,60,303\n2,1,1\n");
  config.columns = "en,hu";
  config.overlap = "1:3,2:1";
  const LayerSizes sizes = sizes_from_counts(config);
  const std::vector<double> expected = {10, 360, 1};
  BOOST_TEST(sizes.total == expected, boost::test_tools::per_element());
  for (const auto& [text, wanted] :
       std::vector<std::pair<std::string, std::string>>{{"3:1", "layers 0..2"},
                                                        {"1", "LAYER:N"},
                                                        {"x:1", "LAYER:N"},
                                                        {"1:-2", "LAYER:N"},
                                                        {"1:1,1:2", "layer 1 twice"},
                                                        {"1:61", "at most 60 can be shared"}}) {
    config.overlap = text;
    BOOST_CHECK_EXCEPTION(sizes_from_counts(config), Error, [&message = wanted](const Error& e) {
      BOOST_TEST_MESSAGE(e.what());
      return e.code() == ErrorCode::config && std::string(e.what()).find(message) != std::string::npos;
    });
  }
  config.overlap = "1:3";
  config.mode = AllocationMode::sum_mean;
  BOOST_CHECK_THROW(sizes_from_counts(config), Error);
}

BOOST_AUTO_TEST_CASE(explanation_says_how_far_a_layer_is_from_another_count) {
  const Folder folder;
  AllocationConfig config;
  config.counts = folder.write("counts.csv", "layer,en,el\n0,300,42\n1,70,9\n2,4,2\n3,24,27\n");
  config.columns = "en,el";
  config.explain = true;
  const auto text = experts_cfg_text(allocate_from_files(config), {});
  // (79 − 6)/336·5 = 1.0863: E = 2. x >= 2 needs S >= 6 + 2·67.2 = 140.4, 62 more; x < 1 needs S <= 73.
  BOOST_TEST(
      text.find("# layer 1: en 70, el 9 -> S = 79; (S - 6) / (342 - 6) = 0.217262; * 5 = 1.0863; E = 2; "
                "next whole number 0.9137 up; E grows with 62 neurons more; E shrinks with 6 fewer\n") !=
      std::string::npos);
  BOOST_TEST(text.find("layer 3: en 24, el 27 -> S = 51") != std::string::npos);
  BOOST_TEST(text.find("E = 1; next whole number 0.3304 up; E grows with 23 neurons more\n") !=
             std::string::npos);
}

BOOST_AUTO_TEST_CASE(similarity_from_a_column) {
  const Folder folder;
  AllocationConfig config;
  config.counts = folder.write("sim.csv", "layer,similarity\n0,0.1\n1,0.2\n2,0.4\n");
  config.columns = "similarity";
  config.mode = AllocationMode::similarity;
  config.similarity_n = 7;  // 7·(10, 5, 2.5)/17.5 = 4, 2, 1
  const std::vector<int> expected = {4, 2, 1};
  BOOST_TEST(allocate_from_files(config).num_experts == expected, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(new_experts_add_to_those_that_exist) {
  AllocationConfig config;
  config.mode = AllocationMode::list;
  config.list = "1,2,3";
  config.add_to = "el/stage2";
  const std::vector<int> existing = {4, 1, 2}, expected = {4, 2, 4};
  const auto allocation = allocate_from_files(config, std::nullopt, existing);
  BOOST_TEST(allocation.num_experts == expected, boost::test_tools::per_element());
  BOOST_TEST(experts_cfg_text(allocation, {})
                 .find("# added to the experts of el/stage2: 4,1,2 + (E - 1) of 1,2,3\n") !=
             std::string::npos);
  BOOST_CHECK_EXCEPTION(allocate_from_files(config, std::nullopt, {4, 1}), Error, [](const Error& e) {
    return e.code() == ErrorCode::bad_data &&
           std::string(e.what()).find("el/stage2 has 2 layers, 3 were allocated") != std::string::npos;
  });
}

BOOST_AUTO_TEST_CASE(sweep_has_a_row_per_setting) {
  const Folder folder;
  AllocationConfig config;
  config.counts = folder.write("counts.csv", "layer,en\n0,342\n1,79\n2,6\n");
  config.columns = "en";
  config.sweep = "e_max=2,6; e_min=1,3";
  const std::string counts = sweep_csv(config, std::nullopt);
  BOOST_TEST(counts ==
             "e_min,e_max,threshold,top_k,experts,moe_layers,new_experts,new_parameters,total_parameters,"
             "active_parameters,list,note\n"
             "1,2,,,4,1,1,,,,\"2,1,1\",\n"
             "1,6,,,9,2,6,,,,\"6,2,1\",\n"
             "3,6,,,12,3,9,,,,\"6,3,3\",\n");
  for (const char* bad :
       {"e_max", "e_max=", "e_max=2.5", "threshold=2", "rounding=ceil", "e_max=2;e_max=3", "top_k=9"}) {
    config.sweep = bad;
    BOOST_CHECK_EXCEPTION(sweep_csv(config, std::nullopt), Error, [](const Error& e) {
      return e.code() == ErrorCode::config &&
             std::string(e.what()).find("allocation.sweep") != std::string::npos;
    });
  }
  const std::string path = folder.path + "/neurons.h5";
  write_neuron_file(path, small_statistics());
  config = {};
  config.neurons = path;
  config.languages = "en,el";
  config.e_max = 3;
  config.sweep = "top_k=1,10;threshold=0.5,0.85,0.95";
  const std::string rows = sweep_csv(config, std::nullopt);
  // AP > 0.5: en keeps units 0..7 and 0, 1 (8 distinct) of layer 0, el 4 of layer 1; top 1: one each.
  BOOST_TEST(rows.find("\n1,3,0.5,1,2,0,0,,,,\"1,1\",\n") != std::string::npos);
  BOOST_TEST(rows.find("\n1,3,0.5,10,4,1,2,,,,\"3,1\",\n") != std::string::npos);
  BOOST_TEST(rows.find("\n1,3,0.85,10,2,0,0,,,,\"1,1\",\n") !=
             std::string::npos);  // layer 0 alone: max = min
  BOOST_TEST(rows.find("\n1,3,0.95,10,,,,,,,,\"no layer has a neuron\"\n") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(hostile_counts) {
  const Folder folder;
  refuses(folder, "layer,en,el\n0,1,2\n", {"hu"}, "it has: layer, en, el");
  refuses(folder, "en,el\n0,1\n", {"en"}, "no column 'layer'");
  refuses(folder, "layer,en\n0,1\n2,1\n", {"en"}, "layer 1 is missing");
  refuses(folder, "layer,en\n0,1\n0,1\n", {"en"}, ":3: layer 0 appears twice");
  refuses(folder, "layer,en\n0,1\n1.5,1\n", {"en"}, ":3: layer 1.5");
  refuses(folder, "layer,en\n0,-1\n", {"en"}, ":2: column en holds '-1'");
  refuses(folder, "layer,en\n0,nan\n", {"en"}, "'nan'");
  refuses(folder, "layer,en\n0,12x\n", {"en"}, "'12x'");
  refuses(folder, "layer,en\n0,\n", {"en"}, "''");
  refuses(folder, "layer,en\n0,1,2\n", {"en"}, ":2: 3 fields, the header has 2");
  refuses(folder, "layer,en,en\n0,1,2\n", {"en"}, "appears 2 times");
  refuses(folder, "layer,en\n", {"en"}, "no layer");
  refuses(folder, "", {"en"}, "no layer");
  BOOST_CHECK_THROW(read_counts_csv(folder.path + "/none.csv", {"en"}), Error);
  BOOST_CHECK_THROW(read_counts_csv(folder.write("c.csv", "layer,en\n0,1\n"), {}), Error);
}

BOOST_AUTO_TEST_CASE(experts_cfg_round_trip) {
  const Folder folder;
  const std::string path = folder.path + "/experts.cfg";
  write_experts_cfg(path, allocate_list("6,2,1"), {"version 0.1", "two\nlines"});
  const std::string text = io::read_file(path);
  BOOST_TEST(text.find("\nADA_MOE_NUM_EXPERTS_LIST=6,2,1\n") != std::string::npos);
  BOOST_TEST(text.find("# two lines\n") != std::string::npos);
  std::size_t begin = 0;
  for (std::size_t end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1)
    BOOST_TEST((text[begin] == '#' || text.compare(begin, 25, "ADA_MOE_NUM_EXPERTS_LIST=") == 0));
  const std::vector<int> expected = {6, 2, 1};
  BOOST_TEST(model::load_expert_counts(path, 3) == expected, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(neuron_file_round_trip_and_allocation) {
  const Folder folder;
  const NeuronStatistics s = small_statistics();
  const std::string path = folder.path + "/neurons.h5";
  write_neuron_file(path, s);
  const NeuronStatistics back = read_neuron_file(path);
  BOOST_TEST(back.modules.modules().size() == 14U);
  BOOST_TEST(back.languages == s.languages, boost::test_tools::per_element());
  for (std::size_t g = 0; g < 2; ++g) {
    BOOST_TEST(back.ap[g] == s.ap[g], boost::test_tools::per_element());
    BOOST_REQUIRE(back.selected[g].neurons.size() == s.selected[g].neurons.size());
    BOOST_TEST(back.selected[g].neurons.back().uuid == s.selected[g].neurons.back().uuid);
    BOOST_TEST(back.selected[g].top_k == 10);
  }
  BOOST_TEST(back.similarity == s.similarity, boost::test_tools::per_element());
  BOOST_TEST(back.provenance.seed == 7);

  AllocationConfig config;
  config.neurons = path;
  config.languages = "en,el";
  config.e_max = 2;
  // en: units 0..7 of down and 0, 1 of gate = 8 distinct; el: 140..143 = v_proj 0..3 = 4 distinct.
  const std::vector<int> expected = {2, 1};
  BOOST_TEST(allocate_from_files(config).num_experts == expected, boost::test_tools::per_element());
  config.mode = AllocationMode::similarity;
  BOOST_CHECK_EXCEPTION(allocate_from_files(config), Error, [](const Error& e) {
    return std::string(e.what()).find("layer 1 has similarity -0.5") != std::string::npos;
  });
  config.mode = AllocationMode::uniform;
  BOOST_TEST(allocate_from_files(config).total() == 6);
  config.mode = AllocationMode::union_size;
  config.languages = "en,hu";
  BOOST_CHECK_EXCEPTION(allocate_from_files(config), Error, [](const Error& e) {
    return std::string(e.what()).find("it has: en, el") != std::string::npos;
  });
  config.counts = "both.csv";
  BOOST_CHECK_THROW(allocate_from_files(config), Error);
}

// Two languages with ten times as many neurons at the cut as are taken: other draws give other lists, and the
// file selects anew as it was selected.
BOOST_AUTO_TEST_CASE(ties_at_the_cut_are_counted_and_their_range_is_said) {
  const Folder folder;
  NeuronStatistics s = small_statistics();
  s.selected.clear();
  for (std::size_t g = 0; g < 2; ++g) {
    for (std::size_t n = 0; n < s.ap[g].size(); ++n) s.ap[g][n] = n % 3 == g ? 1.0 : 0.2;  // 48 of 144
    s.selected.push_back(select_neurons(scores_of(s, g), s.modules, {12, 0.5, Ties::random, 7}));
  }
  const std::string path = folder.path + "/neurons.h5";
  write_neuron_file(path, s);
  io::H5File file = io::H5File::open(path);
  BOOST_TEST(file.read_double_attribute("/selected/el", "cut_ap") == 1.0);
  BOOST_TEST(file.read_int_attribute("/selected/el", "cut_tied") == 48);
  BOOST_TEST(file.read_int_attribute("/selected/el", "cut_taken") == 12);
  BOOST_TEST(file.read_string_attribute("/selected/el", "ties") == "random");
  file.close();

  AllocationConfig config;
  config.neurons = path;
  config.languages = "en,el";
  const Allocation allocation = allocate_from_files(config);
  BOOST_REQUIRE(allocation.warnings.size() == 4U);
  BOOST_TEST(
      allocation.warnings[1] ==
      "el: 48 neurons have the AP of the cut, 1.000000, and 12 of them were taken, drawn at random (seed "
      "7); top_k = 48 takes them all, and negatives in the same script would tell them apart");
  const TieRange range = range_over_draws(config, read_neuron_file(path), {});
  BOOST_TEST(range.total_min < range.total_max);
  BOOST_TEST(range.total_min <= allocation.total());
  BOOST_TEST(range.total_max >= allocation.total());
  for (std::size_t l = 0; l < 2; ++l) {
    BOOST_TEST(range.least[l] <= allocation.num_experts[l]);
    BOOST_TEST(range.most[l] >= allocation.num_experts[l]);
  }
  BOOST_TEST(allocation.warnings[2].rfind(
                 fmt::format(
                     "ties drawn at random with 100 seeds (7 to 106) give {} to {} experts in all, median {}",
                     range.total_min, range.total_max, range.total_median),
                 0) == 0U);
  BOOST_TEST(allocation.warnings[3].rfind("top_k = 48 ", 0) == 0U);
  const std::string text = experts_cfg_text(allocation, {});
  for (const auto& warning : allocation.warnings)
    BOOST_TEST(text.find("\n# warning: " + warning + "\n") != std::string::npos);
  BOOST_TEST(text.find("fewer") == std::string::npos);

  config.top_k = 48;  // what was advised gives what was said, and nothing is left to chance
  const Allocation all = allocate_from_files(config);
  BOOST_TEST(all.warnings.empty());
  BOOST_TEST(allocation.warnings[3].find(fmt::format("gives {} experts: {},{}", all.total(),
                                                     all.num_experts[0], all.num_experts[1])) !=
             std::string::npos);
  config.top_k = 12;
  config.ties = Ties::random;
  BOOST_TEST(allocate_from_files(config).num_experts == allocation.num_experts,
             boost::test_tools::per_element());
  config.ties = Ties::uuid;
  BOOST_TEST(allocate_from_files(config).warnings[1].find("favors the first layers") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(neurons_of_a_later_version_are_refused) {
  const Folder folder;
  const std::string path = folder.path + "/neurons.h5";
  io::write_h5_atomically(path, io::Storage::contiguous, [](io::H5File& file) {
    file.write_format({"neuronmoe-neurons", 2});
  });
  BOOST_CHECK_EXCEPTION(read_neuron_file(path), Error, [&](const Error& e) {
    return e.code() == ErrorCode::bad_data &&
           e.what() == path +
                           " has version 2 of format \"neuronmoe-neurons\"; the newest that this program "
                           "reads is 1: use a newer neuronmoe";
  });
}

BOOST_AUTO_TEST_CASE(expertise_files) {
  const Folder folder;
  write_expertise_csv(folder.path, small_statistics());
  const std::string all = io::read_file(folder.path + "/en/expertise/expertise.csv");
  BOOST_TEST(all.rfind("ap,off_mean,off_p50,on_p50,on_p90,layer,unit,uuid,concept,group\n"
                       "0.9,0,1,2,3,model.layers.0.mlp.down_proj:0,0,0,en,sense\n",
                       0) == 0U);
  const std::string top = io::read_file(folder.path + "/el/expertise/expertise_limited_10_top.csv");
  BOOST_TEST(std::count(top.begin(), top.end(), '\n') == 5);
  BOOST_TEST(io::read_file(folder.path + "/en/expertise/expertise_info.json").find("\"0.50000\": 10,") !=
             std::string::npos);
}
