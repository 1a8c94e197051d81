// Whole training runs with files: the same checkpoint bytes on every layout, exact resume, elastic resume,
// frozen weights.
#include <boost/test/unit_test.hpp>
#include <filesystem>

#include "support/training_run.hpp"

using namespace nmoe;
using test::digest;
using test::run_alone;
using test::run_training;
using test::step_dir;
using RunOptions = test::TrainingOptions;

BOOST_AUTO_TEST_CASE(checkpoints_have_the_same_bytes_on_every_layout,
                     *boost::unit_test::label("trap_14") *
                         boost::unit_test::label("complaint_unequal_layers")) {
  comm::Communicator& world = test::world();
  for (const train::RunKind kind :
       {train::RunKind::stage1, train::RunKind::stage2, train::RunKind::pretrain}) {
    const test::SharedDirectory shared("layouts");
    const std::string tokens = shared.path() + "/tokens.h5";
    test::write_token_corpus(world, tokens);
    run_alone(shared.path(), tokens, kind);
    for (int ep = 1; ep <= world.size(); ++ep) {
      if (world.size() % ep != 0) continue;
      const std::string output = fmt::format("{}/ep{}", shared.path(), ep);
      run_training(world, tokens, {.output = output, .kind = kind, .expert_parallel_size = ep});
      world.barrier();
      for (const std::int64_t step : {3, 6}) {
        BOOST_CHECK_EQUAL(digest(step_dir(output, step)), digest(step_dir(shared.path() + "/alone", step)));
      }
    }
    world.barrier();
  }
}

BOOST_AUTO_TEST_CASE(a_resumed_run_ends_with_the_same_bytes,
                     *boost::unit_test::label("trap_12") * boost::unit_test::label("trap_19") *
                         boost::unit_test::label("complaint_frozen_not_saved")) {
  comm::Communicator& world = test::world();
  const test::SharedDirectory shared("resume");
  const std::string tokens = shared.path() + "/tokens.h5";
  test::write_token_corpus(world, tokens);
  run_alone(shared.path(), tokens, train::RunKind::stage1);
  const std::string output = shared.path() + "/run";
  // The first half on the whole world, with experts spread; the second half on whatever layout is left.
  run_training(world, tokens, {.output = output, .expert_parallel_size = world.size()});
  world.barrier();
  if (world.rank() == 0) std::filesystem::remove_all(step_dir(output, 6));
  world.barrier();
  train::TrainResult result;
  run_training(world, tokens, {.output = output, .expert_parallel_size = 1}, &result);
  BOOST_CHECK_EQUAL(result.completed_steps, 6);
  world.barrier();
  BOOST_CHECK_EQUAL(digest(step_dir(output, 6)), digest(step_dir(shared.path() + "/alone", 6)));
  std::ifstream metrics(output + "/metrics.jsonl");
  int lines = 0;
  for (std::string line; std::getline(metrics, line);) ++lines;
  BOOST_CHECK_EQUAL(lines, 6);
  world.barrier();
}

// Every pair of rank counts up to this run's, experts spread as far as they go on one side and over all ranks
// or none on the other: 16 pairs on 4 ranks. What one layout saves, the other continues with the same bits.
BOOST_AUTO_TEST_CASE(any_layout_resumes_what_another_saved,
                     *boost::unit_test::label("complaint_layout_bound_checkpoints") *
                         boost::unit_test::label("complaint_samples_lost")) {
  comm::Communicator& world = test::world();
  const test::SharedDirectory shared("pairs");
  const std::string tokens = shared.path() + "/tokens.h5";
  test::write_token_corpus(world, tokens);
  run_alone(shared.path(), tokens, train::RunKind::stage1);
  const std::string expected = digest(step_dir(shared.path() + "/alone", 6));
  const auto on_ranks = [&](int count, const RunOptions& options) {
    const std::unique_ptr<comm::Communicator> part = world.split(world.rank() < count ? 0 : 1, world.rank());
    if (world.rank() < count) run_training(*part, tokens, options);
    part->close();
    world.barrier();
  };
  for (int writers = 1; writers <= world.size(); ++writers) {
    const std::string saved = fmt::format("{}/from{}", shared.path(), writers);
    on_ranks(writers, {.output = saved, .expert_parallel_size = writers});
    for (int readers = 1; readers <= world.size(); ++readers) {
      const std::string output = fmt::format("{}to{}", saved, readers);
      if (world.rank() == 0) {
        std::filesystem::create_directory(output);
        std::filesystem::copy(step_dir(saved, 3), step_dir(output, 3));
      }
      world.barrier();
      on_ranks(readers,
               {.output = output, .expert_parallel_size = (writers + readers) % 2 == 0 ? readers : 1});
      BOOST_CHECK_EQUAL(digest(step_dir(output, 6)), expected);
      world.barrier();
    }
  }
}

BOOST_AUTO_TEST_CASE(a_damaged_checkpoint_is_passed_over) {
  comm::Communicator& world = test::world();
  const test::SharedDirectory shared("damaged");
  const std::string tokens = shared.path() + "/tokens.h5";
  test::write_token_corpus(world, tokens);
  const std::string output = shared.path() + "/run";
  run_training(world, tokens, {.output = output});
  world.barrier();
  const std::string expected = digest(step_dir(output, 6));
  world.barrier();
  if (world.rank() == 0) {
    std::fstream file(step_dir(output, 6) + "/optim.h5", std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(-100, std::ios::end);
    file.put('\x7f');
  }
  world.barrier();
  run_training(world, tokens, {.output = output});  // goes on from step 3
  world.barrier();
  BOOST_CHECK_EQUAL(digest(step_dir(output, 6)), expected);
  world.barrier();
}

BOOST_AUTO_TEST_CASE(a_stop_request_saves_and_a_new_run_goes_on) {
  comm::Communicator& world = test::world();
  const test::SharedDirectory shared("signal");
  const std::string tokens = shared.path() + "/tokens.h5";
  test::write_token_corpus(world, tokens);
  train::TrainResult result;
  run_training(world, tokens, {.output = shared.path() + "/run", .stop_before_first_step = true}, &result);
  BOOST_CHECK(result.saved_on_signal);
  BOOST_CHECK_EQUAL(result.completed_steps, 0);
  BOOST_CHECK(std::filesystem::exists(step_dir(shared.path() + "/run", 0) + "/manifest.json"));
  world.barrier();
}

BOOST_AUTO_TEST_CASE(frozen_weights_are_frozen, *boost::unit_test::label("trap_18") *
                                                    boost::unit_test::label("complaint_frozen_not_saved")) {
  comm::Communicator& world = test::world();
  const test::SharedDirectory shared("frozen");
  const std::string tokens = shared.path() + "/tokens.h5";
  test::write_token_corpus(world, tokens);
  const std::string before =
      run_training(world, tokens, {.output = shared.path() + "/a", .stop_before_first_step = true});
  const std::string after = run_training(world, tokens, {.output = shared.path() + "/b"});
  BOOST_CHECK_EQUAL(before, after);
  world.barrier();
}

BOOST_AUTO_TEST_CASE(an_expert_parallel_size_that_does_not_divide_is_refused) {
  comm::Communicator& world = test::world();
  BOOST_CHECK_EXCEPTION(train::ParallelGroups(world, world.size() + 1), Error,
                        [](const Error& e) { return e.code() == ErrorCode::config; });
}
