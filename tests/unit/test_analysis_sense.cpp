// Sense files, tokenisation rules and batches (METHOD 1.1, 1.2).
#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <filesystem>
#include <fstream>
#include <set>

#include "neuronmoe/analysis/sense.hpp"
#include "support/fake_analysis.hpp"

using namespace nmoe;
using namespace nmoe::analysis;
using namespace nmoe::test;

namespace {

struct Folder {
  std::string path =
      (std::filesystem::temp_directory_path() / ("neuronmoe_sense_" + std::to_string(::getpid()))).string();
  Folder() { std::filesystem::create_directories(path); }
  ~Folder() { std::filesystem::remove_all(path); }
  std::string write(const std::string& name, const std::string& text) const {
    std::ofstream(path + "/" + name) << text;
    return path + "/" + name;
  }
};

std::string sense_json(const std::string& language, int count) {
  std::string text =
      "{\"concept\": \"" + language + "\", \"group\": \"sense\", \"sentences\": {\"positive\": [";
  for (int i = 0; i < count; ++i)
    text += (i > 0 ? ", \"" : "\"") + language + " sentence " + std::to_string(i) + "\"";
  return text + "], \"negative\": [\"never used\"]}}";
}

}  // namespace

BOOST_AUTO_TEST_CASE(draw_depends_on_seed_and_language_only) {
  const Folder folder;
  const std::string en = "en:" + folder.write("en.json", sense_json("en", 50));
  const std::string el = "el:" + folder.write("el.json", sense_json("el", 5));
  const std::string tr = "tr:" + folder.write("tr.json", sense_json("tr", 50));
  const auto two = load_sense_pools(std::vector<std::string>{en, el}, 10, 1);
  const auto three = load_sense_pools(std::vector<std::string>{tr, el, en}, 10, 1);
  BOOST_TEST(two[0].sentences.size() == 10U);
  BOOST_TEST(two[1].sentences.size() == 5U);  // fewer than wanted: all
  BOOST_TEST(two[0].sentences == three[2].sentences, boost::test_tools::per_element());
  BOOST_TEST((load_sense_pools(std::vector<std::string>{en, el}, 10, 2)[0].sentences != two[0].sentences));
  const std::set<std::string> distinct(two[0].sentences.begin(), two[0].sentences.end());
  BOOST_TEST(distinct.size() == 10U);
  BOOST_TEST(two[0].sha256.size() == 64U);
}

BOOST_AUTO_TEST_CASE(bad_sense_files_are_refused) {
  const Folder folder;
  const std::string good = "el:" + folder.write("el.json", sense_json("el", 3));
  const auto refused = [&](const std::string& spec, ErrorCode code) {
    BOOST_CHECK_EXCEPTION(load_sense_pools(std::vector<std::string>{good, spec}, 10, 1), Error,
                          [&](const Error& e) { return e.code() == code; });
  };
  refused("en", ErrorCode::config);
  refused(":x.json", ErrorCode::config);
  refused(good, ErrorCode::config);
  refused("en:" + folder.path + "/none.json", ErrorCode::bad_data);
  refused("en:" + folder.write("a.json", "{\"sentences\": {\"positive\": []}}"), ErrorCode::bad_data);
  refused("en:" + folder.write("b.json", "{\"sentences\": {\"positive\": [1]}}"), ErrorCode::bad_data);
  refused("en:" + folder.write("c.json", "{\"sentences\": "), ErrorCode::bad_data);
  refused("en:" + folder.write("d.json", sense_json("hu", 3)), ErrorCode::bad_data);
  BOOST_CHECK_THROW(load_sense_pools(std::vector<std::string>{good}, 10, 1), Error);
}

BOOST_AUTO_TEST_CASE(long_sentences_are_dropped_bos_included) {
  const std::vector<SensePool> pools = {{"en", "p", "", {"abcd", "abc", "", "ab"}}, {"el", "p", "", {"xyz"}}};
  const ByteTokenizer with_bos(true), without(false);
  const SampleSet set = tokenize_pools(pools, with_bos, 256, 4);
  BOOST_TEST(set.num_kept[0] == 2);  // abcd has 5 tokens with BOS; the empty one has none besides BOS
  BOOST_TEST(set.num_dropped[0] == 2);
  BOOST_TEST(set.num_tokens[0] == 7);
  BOOST_TEST(set.samples[0].ids[0] == 256);
  BOOST_TEST(tokenize_pools(pools, without, -1, 4).num_kept[0] == 3);
  BOOST_CHECK_THROW(tokenize_pools(pools, with_bos, 256, 3), Error);  // el keeps nothing
}

BOOST_AUTO_TEST_CASE(bos_follows_tokenizer_then_llama_config) {
  auto config = tiny_config({1});
  config.bos_token_id = 2;
  BOOST_TEST(sense_bos(ByteTokenizer(true), config) == 256);
  BOOST_TEST(sense_bos(ByteTokenizer(false), config) == 2);
  config.model_type = "qwen2";
  BOOST_TEST(sense_bos(ByteTokenizer(false), config) == -1);
}

BOOST_AUTO_TEST_CASE(batches_cover_every_sample_once_within_the_limit) {
  SampleSet set;
  for (int i = 0; i < 50; ++i)
    set.samples.push_back({0, std::vector<std::int32_t>(static_cast<std::size_t>(1 + (i * 13) % 37), 1)});
  const auto batches = form_batches(set, 30);
  std::set<std::int64_t> seen;
  for (const auto& batch : batches) {
    std::size_t tokens = 0;
    for (const std::int64_t s : batch) {
      tokens += set.samples[static_cast<std::size_t>(s)].ids.size();
      BOOST_TEST(seen.insert(s).second);
    }
    BOOST_TEST((tokens <= 30 || batch.size() == 1));
  }
  BOOST_TEST(seen.size() == 50U);
}
