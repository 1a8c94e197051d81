// Elastic checkpoints over many layouts: what any of them saves, every other continues with the same bits.
#include <boost/test/unit_test.hpp>
#include <filesystem>

#include "support/training_run.hpp"

using namespace nmoe;
using test::TrainingOptions;

namespace {

/// Eight ranks, of which the first few run while the others wait; runs with one model and batch.
struct Runs {
  test::SharedDirectory shared{"reshard"};
  std::string tokens = shared.path() + "/tokens.h5";
  Runs() {
    BOOST_REQUIRE_EQUAL(test::world().size(), 8);
    test::write_token_corpus(test::world(), tokens);
  }
  TrainingOptions options(const std::string& output, int expert_parallel_size) const {
    return {.output = output,
            .expert_parallel_size = expert_parallel_size,
            .num_experts = {6, 1, 3},
            .global_batch_size = 20};
  }
  void run(int ranks, const std::string& output, int expert_parallel_size) const {
    comm::Communicator& world = test::world();
    const std::unique_ptr<comm::Communicator> part = world.split(world.rank() < ranks ? 0 : 1, world.rank());
    if (world.rank() < ranks) test::run_training(*part, tokens, options(output, expert_parallel_size));
    part->close();
    world.barrier();
  }
  /// A run directory that holds step 3 of `saved` alone.
  void begin_from(const std::string& saved, const std::string& output) const {
    if (test::world().rank() == 0) {
      std::filesystem::create_directory(output);
      std::filesystem::copy(test::step_dir(saved, 3), test::step_dir(output, 3));
    }
    test::world().barrier();
  }
  void check_end(const std::string& output, const std::string& expected) const {
    BOOST_TEST(test::digest(test::step_dir(output, 6)) == expected);
    test::world().barrier();
    if (test::world().rank() == 0) std::filesystem::remove_all(output);
    test::world().barrier();
  }
};

}  // namespace

// 25 pairs of rank counts; experts spread as far as they go on one side, and now here, now there, on the
// other.
BOOST_AUTO_TEST_CASE(every_pair_of_rank_counts,
                     *boost::unit_test::label("complaint_layout_bound_checkpoints") *
                         boost::unit_test::label("complaint_samples_lost")) {
  const Runs runs;
  const std::string alone = runs.shared.path() + "/alone";
  runs.run(1, alone, 1);
  const std::string expected = test::digest(test::step_dir(alone, 6));
  for (const int writers : {1, 2, 3, 4, 8}) {
    const std::string saved = fmt::format("{}/from{}", runs.shared.path(), writers);
    runs.run(writers, saved, writers);
    BOOST_TEST(test::digest(test::step_dir(saved, 6)) == expected);
    BOOST_TEST(test::digest(test::step_dir(saved, 3)) == test::digest(test::step_dir(alone, 3)));
    for (const int readers : {1, 2, 3, 4, 8}) {
      const std::string output = fmt::format("{}to{}", saved, readers);
      runs.begin_from(saved, output);
      runs.run(readers, output, (writers + readers) % 2 == 0 ? readers : 1);
      runs.check_end(output, expected);
    }
  }
}

// 16 pairs of expert-parallel sizes, all on eight ranks.
BOOST_AUTO_TEST_CASE(every_pair_of_expert_parallel_sizes,
                     *boost::unit_test::label("complaint_layout_bound_checkpoints")) {
  const Runs runs;
  const std::string alone = runs.shared.path() + "/alone";
  runs.run(1, alone, 1);
  const std::string expected = test::digest(test::step_dir(alone, 6));
  for (const int writers : {1, 2, 4, 8}) {
    const std::string saved = fmt::format("{}/from{}", runs.shared.path(), writers);
    runs.run(8, saved, writers);
    for (const int readers : {1, 2, 4, 8}) {
      const std::string output = fmt::format("{}to{}", saved, readers);
      runs.begin_from(saved, output);
      runs.run(8, output, readers);
      runs.check_end(output, expected);
    }
  }
}
