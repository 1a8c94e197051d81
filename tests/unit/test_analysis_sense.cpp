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

std::vector<SensePool> drawn(const std::vector<std::string>& specs, std::uint64_t seed) {
  auto pools = read_sense_pools(specs);
  draw_shared(pools, 10, seed);
  return pools;
}

}  // namespace

BOOST_AUTO_TEST_CASE(draw_depends_on_seed_and_language_only) {
  const Folder folder;
  const std::string en = "en:" + folder.write("en.json", sense_json("en", 50));
  const std::string el = "el:" + folder.write("el.json", sense_json("el", 5));
  const std::string tr = "tr:" + folder.write("tr.json", sense_json("tr", 50));
  const auto two = drawn({en, el}, 1);
  const auto three = drawn({tr, el, en}, 1);
  BOOST_TEST(two[0].sentences.size() == 10U);
  BOOST_TEST(two[1].sentences.size() == 5U);  // fewer than wanted: all
  BOOST_TEST(two[0].sentences == three[2].sentences, boost::test_tools::per_element());
  BOOST_TEST((drawn({en, el}, 2)[0].sentences != two[0].sentences));
  const std::set<std::string> distinct(two[0].sentences.begin(), two[0].sentences.end());
  BOOST_TEST(distinct.size() == 10U);
  BOOST_TEST(two[0].sha256.size() == 64U);
}

BOOST_AUTO_TEST_CASE(bad_sense_files_are_refused) {
  const Folder folder;
  const std::string good = "el:" + folder.write("el.json", sense_json("el", 3));
  const auto refused = [&](const std::string& spec, ErrorCode code) {
    BOOST_CHECK_EXCEPTION(read_sense_pools(std::vector<std::string>{good, spec}), Error,
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
  BOOST_CHECK_THROW(read_sense_pools(std::vector<std::string>{good}), Error);
}

BOOST_AUTO_TEST_CASE(negatives_of_the_file) {
  const Folder folder;
  const std::string el = "el:" + folder.write("el.json", sense_json("el", 3));
  const std::string bare = "en:" + folder.write("en.json", "{\"sentences\": {\"positive\": [\"a\", \"b\"]}}");
  const auto pools = read_sense_pools(std::vector<std::string>{el, bare});
  BOOST_TEST(pools[0].negatives.empty());
  BOOST_TEST(pools[0].num_unused_negatives == 1);
  BOOST_TEST(pools[1].num_unused_negatives == 0);
  const auto alone = read_sense_pools(std::vector<std::string>{el}, Negatives::file);
  const std::vector<std::string> negatives = {"never used"};
  BOOST_TEST(alone[0].negatives == negatives, boost::test_tools::per_element());
  BOOST_TEST(alone[0].num_unused_negatives == 0);
  const auto refused = [&](const std::string& spec, ErrorCode code, const std::string& wanted) {
    BOOST_CHECK_EXCEPTION(
        read_sense_pools(std::vector<std::string>{el, spec}, Negatives::file), Error, [&](const Error& e) {
          BOOST_TEST_MESSAGE(e.what());
          return e.code() == code && std::string(e.what()).find(wanted) != std::string::npos;
        });
  };
  refused(bare, ErrorCode::bad_data, "en.json: no sentences.negative");
  refused("tr:" + folder.write("tr.jsonl", "{\"text\": \"bir\"}\n"), ErrorCode::config,
          "no negatives of its own");
  refused(
      "hu:" + folder.write("hu.json", "{\"sentences\": {\"positive\": [\"a\", \"b\"], \"negative\": [1]}}"),
      ErrorCode::bad_data, "sentences.negative[0] is not text");
}

BOOST_AUTO_TEST_CASE(jsonl_with_labels) {
  const Folder folder;
  const std::string mixed = folder.write("mixed.jsonl",
                                         "{\"text\": \"one\", \"lang\": \"en\", \"id\": 1}\n\n"
                                         "{\"text\": \"ena\", \"lang\": \"el\", \"id\": \"1\"}\r\n"
                                         "{\"text\": \"two\", \"lang\": \"en\"}\n"
                                         "{\"lang\": \"el\", \"text\": \"dyo\", \"id\": 2}");
  const std::string tr =
      "tr:" + folder.write("tr.jsonl", "{\"text\": \"bir\"}\n{\"text\": \"iki\", \"lang\": \"tr\"}\n");
  const auto pools = read_sense_pools(std::vector<std::string>{mixed, tr});
  BOOST_REQUIRE(pools.size() == 3U);
  BOOST_TEST(pools[0].language == "en");
  BOOST_TEST(pools[1].language == "el");
  const std::vector<std::string> en = {"one", "two"}, el = {"ena", "dyo"};
  BOOST_TEST(pools[0].sentences == en, boost::test_tools::per_element());
  BOOST_TEST(pools[1].sentences == el, boost::test_tools::per_element());
  BOOST_TEST(pools[2].sentences[1] == "iki");
  const std::string good = "en:" + folder.write("en.json", sense_json("en", 3));
  const auto refused = [&](const std::string& spec, const std::string& wanted) {
    BOOST_CHECK_EXCEPTION(read_sense_pools(std::vector<std::string>{good, spec}), Error, [&](const Error& e) {
      BOOST_TEST_MESSAGE(e.what());
      return std::string(e.what()).find(wanted) != std::string::npos;
    });
  };
  const auto file = [&](const char* text) { return folder.write("bad.jsonl", text); };
  refused(file("{\"text\": \"a\", \"lang\": \"hu\"}\n{\"text\": \"b\"}\n"), "bad.jsonl:2: no \"lang\"");
  refused(file("{\"text\": \"a\", \"lang\": 7}\n"), "bad.jsonl:1: \"lang\" is 7");
  refused(file("{\"text\": \"a\", \"lang\": \"h/u\"}\n"), "'h/u' is not a language code");
  refused("hu:" + file("{\"text\": \"a\"}\n{\"text\": \"b\", \"lang\": \"tr\"}\n"),
          "bad.jsonl:2: \"lang\" is tr, but the file was given as language hu");
  refused(
      "hu:" +
          file("{\"text\": \"a\", \"id\": 5}\n{\"text\": \"b\", \"id\": 6}\n{\"text\": \"c\", \"id\": 5}\n"),
      "bad.jsonl:3: id 5 was used before, at " + folder.path + "/bad.jsonl:1");
  refused("hu:" + file("{\"txt\": \"a\"}\n"), "bad.jsonl:1: wanted an object with \"text\"");
  refused("hu:" + file("{\"text\": \"a\"}\n{\"text\": \n"), "bad.jsonl:2");
  refused("hu:" + file(""), "language hu has 0 sentences; at least two are needed");
  refused("hu:" + file("{\"text\": \"a\"}\n"), "language hu has 1 sentences; at least two are needed");
  refused(file(""), "bad.jsonl: no sentence in it");
  refused(file("{\"text\": \"a\", \"lang\": \"en\"}\n"), "names language en twice");
  refused("hu:" + folder.path + "/none.jsonl", "none.jsonl: cannot be opened");
}

BOOST_AUTO_TEST_CASE(redrawn_pools_differ_by_analysed_language) {
  const Folder folder;
  std::vector<std::string> specs;
  for (const char* language : {"en", "el", "tr"})
    specs.push_back(language + std::string(":") +
                    folder.write(std::string(language) + ".json", sense_json(language, 60)));
  auto pools = read_sense_pools(specs);
  const std::vector<int> analysed = {0, 2};
  redraw_pools(pools, analysed, 20, 1);
  const ByteTokenizer tokenizer(false);
  const SampleSet set = tokenize_pools(pools, tokenizer, 100);
  BOOST_TEST(set.num_kept[0] > 20);  // two independent draws of 20 of 60
  BOOST_TEST(set.num_kept[0] < 40);
  const SampleRoles roles = set.roles(analysed);
  int both = 0, one = 0;
  for (int g = 0; g < 2; ++g) {
    BOOST_TEST(roles.count(g, Role::positive) == 20);
    BOOST_TEST(roles.count(g, Role::negative) == 40);
  }
  for (std::size_t s = 0; s < set.samples.size(); ++s) {
    const int language = set.samples[s].language;
    int present = 0;
    for (int g = 0; g < 2; ++g) {
      const Role role = roles.role(g, roles.class_of_sample[s]);
      if (role == Role::absent) continue;
      ++present;
      BOOST_TEST((role == Role::positive) == (language == analysed[static_cast<std::size_t>(g)]));
    }
    BOOST_TEST(present > 0);  // what nobody drew is not run
    (present == 2 ? both : one) += 1;
  }
  BOOST_TEST(both > 0);
  BOOST_TEST(one > 0);
  auto again = read_sense_pools(specs);
  redraw_pools(again, analysed, 20, 1);
  BOOST_TEST(again[1].sentences == pools[1].sentences, boost::test_tools::per_element());
  redraw_pools(again = read_sense_pools(specs), analysed, 20, 2);
  BOOST_TEST((again[1].sentences != pools[1].sentences));
}

BOOST_AUTO_TEST_CASE(documents_give_their_first_tokens) {
  const Folder folder;
  const std::string en =
      "en:" + folder.write("en.jsonl", "{\"text\": \"abcdefgh\"}\n{\"text\": \"" + std::string(32001, 'x') +
                                           "\"}\n{\"text\": \"ijklmnop\"}\n{\"text\": \"never\"}\n");
  const std::string el = "el:" + folder.write("el.jsonl", "{\"text\": \"alpha\"}\n");
  const ByteTokenizer tokenizer(true);
  const std::vector<std::string> specs = {en, el};
  const SampleSet set = tokenize_documents(specs, tokenizer, 10, 6);
  BOOST_REQUIRE(set.samples.size() == 3U);
  BOOST_TEST(set.samples[0].ids.size() == 6U);  // BOS and five letters: cut at 6
  BOOST_TEST(set.samples[1].ids.size() == 4U);  // the rest of ten
  BOOST_TEST(set.samples[1].ids[1] == 'i');     // the endless text is skipped
  BOOST_TEST(set.num_dropped[0] == 1);
  BOOST_TEST(set.num_tokens[0] == 10);
  BOOST_TEST(set.num_tokens[1] == 6);
  BOOST_CHECK_THROW(tokenize_documents(std::vector<std::string>{en}, tokenizer, 10, 6), Error);
  BOOST_CHECK_THROW(tokenize_documents(std::vector<std::string>{en, en}, tokenizer, 10, 6), Error);
}

BOOST_AUTO_TEST_CASE(long_sentences_are_dropped_bos_included) {
  const std::vector<SensePool> pools = {{"en", "p", "", {"abcd", "abc", "", "ab"}},
                                        {"el", "p", "", {"xyz", "zyx"}}};
  const ByteTokenizer with_bos(true), without(false);
  const SampleSet set = tokenize_pools(pools, with_bos, 4);
  BOOST_TEST(set.num_kept[0] == 2);  // abcd has 5 tokens with BOS; the empty one has none besides BOS
  BOOST_TEST(set.num_dropped[0] == 2);
  BOOST_TEST(set.num_tokens[0] == 7);
  BOOST_TEST((set.has_bos && set.samples[0].ids[0] == 256));
  const SampleSet bare = tokenize_pools(pools, without, 4);
  BOOST_TEST((!bare.has_bos && bare.samples[0].ids[0] == 'a'));
  BOOST_TEST((bare.num_kept[0] == 3 && bare.num_dropped[0] == 1));
  BOOST_CHECK_THROW(tokenize_pools(pools, with_bos, 3), Error);  // el keeps nothing
  const std::vector<SensePool> one_left = {{"en", "p", "", {"abcd", "abc", "ab"}},
                                           {"el", "file", "", {"xyzxyz", "x"}}};
  BOOST_CHECK_EXCEPTION(tokenize_pools(one_left, with_bos, 5), Error, [](const Error& e) {
    const std::string what = e.what();
    return e.code() == ErrorCode::bad_data &&
           what.find("file: el is left with one sentence, 1 were dropped for having more than 5 tokens") !=
               std::string::npos;
  });
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
