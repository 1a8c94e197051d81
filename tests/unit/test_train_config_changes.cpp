// What a resume says of a changed configuration.
#include <boost/test/unit_test.hpp>

#include "neuronmoe/base/error.hpp"
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
