// Ranks that a batch leaves without work: how many, in which turn, and a setting that feeds them and is
// valid.
#include <boost/test/unit_test.hpp>

#include "neuronmoe/train/idle_ranks.hpp"

using namespace nmoe;

namespace {

train::TrainConfig batch(std::int64_t global, std::int64_t micro) {
  train::TrainConfig config;
  config.global_batch_size = global;
  config.micro_batch_size = micro;
  return config;
}

}  // namespace

BOOST_AUTO_TEST_CASE(nothing_is_said_where_all_work) {
  for (const auto& [global, micro, ranks] :
       {std::tuple{128, 32, 4}, {128, 32, 2}, {128, 32, 1}, {128, 8, 16}, {6, 2, 3}}) {
    BOOST_TEST(train::idle_ranks_warning(batch(global, micro), ranks) == "");
    BOOST_TEST(train::rank_use(batch(global, micro), ranks).share == 1.0);
  }
}

BOOST_AUTO_TEST_CASE(fewer_micro_batches_than_ranks) {
  BOOST_TEST(train::idle_ranks_warning(batch(128, 32), 16) ==
             "12 of 16 ranks are idle: a step has 4 micro-batches (train.global_batch_size = 128 / "
             "train.micro_batch_size = 32) for 16 ranks; --train.micro_batch_size 8 feeds every rank");
  BOOST_TEST(train::rank_use(batch(128, 32), 16).share == 0.25);
}

BOOST_AUTO_TEST_CASE(a_last_turn_that_is_not_full) {
  const std::string text = train::idle_ranks_warning(batch(120, 24), 4);
  BOOST_TEST(text.find("3 of 4 ranks are idle in the last of 2 turns: a step has 5 micro-batches") == 0U);
  BOOST_TEST(text.find("--train.micro_batch_size 15 feeds every rank") != std::string::npos);
  BOOST_TEST(train::rank_use(batch(120, 24), 4).share == 0.625);
}

BOOST_AUTO_TEST_CASE(a_batch_that_cannot_feed_all) {
  const std::string text = train::idle_ranks_warning(batch(128, 32), 256);
  BOOST_TEST(text.find("252 of 256 ranks are idle: ") == 0U);
  BOOST_TEST(text.find("; run on 128 ranks with --train.micro_batch_size 1; --train.global_batch_size 256 "
                       "--train.micro_batch_size 1 feeds every rank, but is another training") !=
             std::string::npos);
  train::TrainConfig odd = batch(3, 1);
  odd.expert_parallel_size = 2;  // 3 ranks would not be whole groups, nor would 1
  BOOST_TEST(train::idle_ranks_warning(odd, 4).find("for 4 ranks; --train.global_batch_size 4 "
                                                    "--train.micro_batch_size 1 feeds") != std::string::npos);
}

// Whatever is advised as another micro-batch leaves nobody idle and divides the batch.
BOOST_AUTO_TEST_CASE(the_advice_feeds_every_rank) {
  for (std::int64_t global = 1; global <= 48; ++global) {
    for (std::int64_t micro = 1; micro <= global; ++micro) {
      if (global % micro != 0) continue;
      for (int ranks = 1; ranks <= 12; ++ranks) {
        const std::int64_t advised = train::feeding_micro_batch_size(batch(global, micro), ranks);
        BOOST_TEST((advised > 0) == (global % ranks == 0));
        if (advised == 0) continue;
        BOOST_TEST(advised <= micro);
        BOOST_TEST(global % advised == 0);
        BOOST_TEST(train::rank_use(batch(global, advised), ranks).idle == 0);
      }
    }
  }
}
