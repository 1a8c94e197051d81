#pragma once
// A training run of a tiny model whose counts are compared with its plan. Used by the tests of plan.
#include <boost/test/unit_test.hpp>
#include <filesystem>
#include <functional>
#include <string>

#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/train/trainer.hpp"
#include "support/mpi_fixture.hpp"
#include "support/tiny_model.hpp"
#include "support/token_corpus.hpp"

namespace nmoe::test {

struct PlannedRun {
  train::RunKind kind;
  std::vector<int> num_experts;
  train::TrainConfig config = {};                          ///< sequences of 8 tokens unless it says otherwise
  model::ExpertTokens measured = {};                       ///< what owned experts are placed by
  std::int64_t hidden_size = 24, intermediate_size = 400;  ///< several blocks of the norm in every expert
  bool qk_norm = false;                                    ///< as Qwen3
  std::vector<int> num_old_experts = {};                   ///< of an extended mixture
  std::function<void(model::Decoder&)> prepare = {};       ///< changes the initial weights

  PlannedRun(train::RunKind the_kind, std::vector<int> experts)
      : kind(the_kind), num_experts(std::move(experts)) {
    config.steps = 2;
    config.seq_length = 8;
    config.save_every = 0;
  }
};

struct CountedRun {
  train::RunAccounts accounts;
  train::MemoryPlan reserved;                      ///< with room for any routing on one rank
  std::vector<std::int64_t> saved, planned_saved;  ///< per layer, bytes
  std::vector<std::vector<std::int64_t>> routed_slots;
};

/// Runs it in `directory`, which holds the tokens of write_token_corpus. Collective over the world.
inline CountedRun count_run(const PlannedRun& planned, const std::string& directory) {
  comm::Communicator& world = test::world();
  const train::TrainConfig& c = planned.config;
  const train::ParallelGroups groups(world, c.expert_parallel_size);
  model::ModelConfig config = tiny_config(planned.num_experts);
  config.hidden_size = planned.hidden_size;
  config.intermediate_size = planned.intermediate_size;
  config.qk_norm = planned.qk_norm;
  config.num_old_experts = planned.num_old_experts;
  config.top_k = c.top_k;
  config.release_router = c.router_compat == model::RouterCompat::release;
  Stream stream;
  const Logger log(world.rank(), true);
  comm::Heartbeat heartbeat;
  const comm::ExecutionContext context{world, Device::cpu, stream, log, heartbeat};
  model::Decoder decoder(config, c.dtype, train::trainables_of(planned.kind),
                         groups.experts(config.num_experts, c.top_k, c.expert_placement, planned.measured),
                         stream);
  decoder.initialise_dense(4);
  decoder.upcycle(4);
  if (planned.prepare) planned.prepare(decoder);
  train::TrainRun run;
  run.kind = planned.kind;
  run.output_dir = directory + "/run";
  run.resume = "none";
  run.config = c;
  run.identity.provenance_json = "{}\n";
  run.placed_by.counts = planned.measured;
  const data::Mixture mixture =
      data::make_mixture({{.name = "all", .tokens = directory + "/tokens.h5"}}, c.seq_length, false, c.seed);
  train::Trainer trainer(context, run, groups, decoder, mixture);
  CountedRun counted;
  counted.accounts = trainer.run().accounts;
  const train::PlanInput input{config, planned.kind, c, world.size(), run.placed_by};
  counted.reserved = train::plan_reserved_memory(input, world.rank());
  counted.saved = decoder.saved_bytes();
  counted.planned_saved = train::plan_saved_bytes(input, world.rank());
  counted.routed_slots = decoder.routed_slots();
  comm::agree(world, [&] {
    if (world.rank() == 0) std::filesystem::remove_all(run.output_dir);
  });
  return counted;
}

/// All that does not depend on routing. As text where a failure is to name the operation. No REQUIRE: the
/// other ranks go on to the next run.
inline void check_counts(const train::RunAccounts& run) {
  const auto text = [](const std::map<std::string, std::int64_t>& bytes) {
    std::string all;
    for (const auto& [operation, n] : bytes) all += fmt::format("{} {} ", operation, n);
    return all;
  };
  BOOST_TEST(comm::all_reduce_sum(test::world(), run.flops) > 0);  // a rank may have no micro-batch
  BOOST_TEST(run.flops == run.planned_flops);
  BOOST_TEST(text(run.bytes) == text(run.planned_bytes));
  BOOST_TEST(run.memory.weights == run.planned_memory.weights);
  BOOST_TEST(run.memory.gradients == run.planned_memory.gradients);
  BOOST_TEST(run.memory.gradient_sum == run.planned_memory.gradient_sum);
  BOOST_TEST(run.memory.optimizer == run.planned_memory.optimizer);
  BOOST_TEST(run.memory.buffers == run.planned_memory.buffers);
  BOOST_TEST(run.memory.partial_sums == run.planned_memory.partial_sums);
}

/// Activations, where routing is known beforehand.
inline void check_activations(const train::RunAccounts& run) {
  BOOST_TEST(run.memory.saved == run.planned_memory.saved);
  BOOST_TEST(run.memory.scratch == run.planned_memory.scratch);
  BOOST_TEST(run.memory.to_experts == run.planned_memory.to_experts);
  BOOST_TEST(run.memory.from_experts == run.planned_memory.from_experts);
}

/// A rank without experts of others allocates what was reserved at its start and no more.
inline void check_reserve(const CountedRun& run) {
  BOOST_TEST(run.accounts.memory.saved <= run.reserved.saved);
  BOOST_TEST(run.accounts.memory.scratch <= run.reserved.scratch);
  BOOST_TEST(run.accounts.memory.to_experts <= run.reserved.to_experts);
  BOOST_TEST(run.accounts.memory.from_experts <= run.reserved.from_experts);
}

}  // namespace nmoe::test
