// What a resume says of a changed configuration.
#include <boost/test/unit_test.hpp>

#include "neuronmoe/base/error.hpp"
#include "neuronmoe/train/base_files.hpp"
#include "neuronmoe/train/config_changes.hpp"
#include "support/temp_dir.hpp"

using namespace nmoe;

namespace {

const std::string stored =
    "[run]\nmodel = m\n# tokens is not set\n\n[train]\nsteps = 6\ntop_k = 2\nseq_length = 32\nwarmup = 1\n\n"
    "[pack]\nbatch_docs = 1000\n\n[router]\ncompat = none\n\n[tokenize]\ninput = a\ninput = b\n";

std::string with(std::string text, const std::string& before, const std::string& after) {
  text.replace(text.find(before), before.size(), after);
  return text;
}

std::string changes_to(const std::string& now) {
  return train::to_string(train::config_changes(stored, now));
}

}  // namespace

BOOST_AUTO_TEST_CASE(every_change_is_named) {
  BOOST_TEST(changes_to(stored) == "");
  std::string now = with(with(stored, "steps = 6", "steps = 8"), "top_k = 2", "top_k = 1");
  now = with(now, "# tokens is not set", "tokens = t.h5");
  now = with(now, "warmup = 1\n", "");
  now = with(now, "input = b", "input = c");
  BOOST_TEST(
      changes_to(now) ==
      "run.tokens (not set) -> t.h5, train.steps 6 -> 8, train.top_k 2 -> 1, tokenize.input a, b -> a, c, "
      "train.warmup 1 -> (not set)");
}

BOOST_AUTO_TEST_CASE(what_a_resume_would_not_survive_is_refused) {
  const auto refusal = [&](const std::string& before, const std::string& after,
                           std::initializer_list<std::string_view> words) {
    return test::expect_error(ErrorCode::config, words, [&] {
      train::require_resumable("run/step_1", train::config_changes(stored, with(stored, before, after)));
    });
  };
  BOOST_TEST(refusal("top_k = 2", "top_k = 1", {"run/step_1", "train.top_k = 2 stored, now 1", "mixture"}) ==
             "");
  BOOST_TEST(refusal("compat = none", "compat = release", {"router.compat = none stored, now release"}) ==
             "");
  BOOST_TEST(refusal("seq_length = 32", "seq_length = 64",
                     {"train.seq_length", "the data order would change"}) == "");
  BOOST_TEST(refusal("batch_docs = 1000", "batch_docs = 5",
                     {"pack.batch_docs", "the data order would change"}) == "");
  train::require_resumable("run/step_1",
                           train::config_changes(stored, with(stored, "steps = 6", "steps = 8")));
  // A key that the program of the checkpoint did not have.
  train::require_resumable("run/step_1", train::config_changes(with(stored, "top_k = 2\n", ""), stored));
}

BOOST_AUTO_TEST_CASE(another_base_is_told_by_its_files_and_keys) {
  const test::TempDir work;
  const auto files = [&](std::string_view config, const std::string& config_hash,
                         const std::string& weights) {
    test::write_bytes(work / "config.json", config);
    return train::base_files(work.path(), std::vector<model::FileDigest>{{"config.json", config_hash},
                                                                         {"w.safetensors", weights}});
  };
  const std::string one = files(R"({"a": 1, "b": [2, 3]})", "c1", "w1");
  BOOST_TEST(train::base_difference(one, one) == "");
  BOOST_TEST(train::base_difference(one, files(R"({"a": 1, "b": [2, 4]})", "c2", "w1")) ==
             " (different: config.json: b; the weights are the same)");
  BOOST_TEST(train::base_difference(one, files(R"({"b": [2, 3], "c": 0})", "c2", "w2")) ==
             " (different: config.json: c, w.safetensors, config.json: a; the weights are different)");
  BOOST_TEST(train::base_difference(one, files(R"({"a":1,"b":[2,3]})", "c2", "w1")) ==
             " (different: config.json in its layout only; the weights are the same)");
  // A checkpoint that knows the files alone, one that knows nothing.
  const std::string older = R"({"config.json": "c1", "w.safetensors": "w1"})";
  BOOST_TEST(train::base_difference(older, one) == "");
  BOOST_TEST(train::base_difference(older, files(R"({"a": 2})", "c2", "w1")) ==
             " (different: config.json; the weights are the same)");
  BOOST_TEST(train::base_difference("", one) == "");
  BOOST_TEST(train::base_files(work.path(), {}) == "");
}
