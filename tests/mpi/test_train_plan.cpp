// What a run counts is what `plan` predicts, to the last operation and byte: three small shapes on every
// layout (DESIGN 6, "Counters").
#include <boost/test/unit_test.hpp>

#include "neuronmoe/train/trainer.hpp"
#include "support/mpi_fixture.hpp"
#include "support/tiny_model.hpp"
#include "support/token_corpus.hpp"

using namespace nmoe;

namespace {

struct ShapeUnderTest {
  train::RunKind kind;
  std::vector<int> num_experts;
  int top_k;
  std::int64_t micro_batch_size, global_batch_size;
  bool exact_memory;                  // every layer has top_k >= E: routing is known beforehand
  model::ExpertTokens measured = {};  // what owned experts are placed by
};

train::RunAccounts count_run(const ShapeUnderTest& shape, const std::string& directory,
                             int expert_parallel_size, const train::ReduceOptions& reduce,
                             const std::string& home) {
  comm::Communicator& world = test::world();
  const train::ParallelGroups groups(world, expert_parallel_size);
  model::ModelConfig config = test::tiny_config(shape.num_experts);
  config.hidden_size = 24;  // several blocks of 4096 elements in every expert
  config.intermediate_size = 400;
  config.top_k = shape.top_k;
  Stream stream;
  const Logger log(world.rank(), true);
  comm::Heartbeat heartbeat;
  const comm::ExecutionContext context{world, Device::cpu, stream, log, heartbeat};
  model::Decoder decoder(
      config, DType::float32, train::trainables_of(shape.kind),
      groups.experts(config.num_experts, shape.top_k, model::parse_expert_home(home), shape.measured),
      stream);
  decoder.initialise_dense(4);
  decoder.upcycle(4);
  train::TrainRun run;
  run.kind = shape.kind;
  run.output_dir =
      directory + fmt::format("/run{}{}{}", expert_parallel_size, reduce.zero, reduce.bucket_bytes);
  run.resume = "none";
  run.config.steps = 2;
  run.config.seq_length = 8;
  run.config.micro_batch_size = shape.micro_batch_size;
  run.config.global_batch_size = shape.global_batch_size;
  run.config.expert_parallel_size = expert_parallel_size;
  run.config.expert_placement = home;
  run.config.bucket_bytes = reduce.bucket_bytes;
  run.config.zero = reduce.zero;
  run.config.gradient_dtype = reduce.wire_dtype == DType::bfloat16 ? "bfloat16" : "float32";
  run.config.reduce_every = reduce.once_per_step ? "step" : "micro_step";
  run.config.save_every = 0;
  run.identity.provenance_json = "{}\n";
  run.placed_by.counts = shape.measured;
  const data::Mixture mixture =
      data::make_mixture({{.name = "all", .tokens = directory + "/tokens.h5", .lang = "", .mark = ""}},
                         run.config.seq_length, false, run.config.seed);
  train::Trainer trainer(context, run, groups, decoder, mixture);
  train::RunAccounts accounts = trainer.run().accounts;
  const train::PlanInput input{config, shape.kind, run.config, world.size()};
  if (expert_parallel_size == 1) {  // else other ranks may send more than was reserved for
    const train::MemoryPlan reserved = train::plan_reserved_memory(input, world.rank());
    BOOST_TEST(decoder.peak_bytes().saved <= reserved.saved);
    BOOST_TEST(decoder.peak_bytes().scratch <= reserved.scratch);
  }
  if (shape.exact_memory) {
    const std::vector<std::int64_t> saved = train::plan_saved_bytes(input, world.rank());
    if (input.num_micro_batches() % world.size() ==
        0)  // else the last micro-step has fewer tokens to receive
      BOOST_TEST(decoder.saved_bytes() == saved, boost::test_tools::per_element());
  }
  return accounts;
}

void check_shape(const ShapeUnderTest& shape) {
  comm::Communicator& world = test::world();
  const test::SharedDirectory shared("plan");
  test::write_token_corpus(world, shared.path() + "/tokens.h5");
  const train::ReduceOptions variants[] = {
      {.bucket_bytes = 1 << 20},
      {.bucket_bytes = 4096, .overlap = false, .wire_dtype = DType::bfloat16},
      {.bucket_bytes = 8192, .zero = false},
      {.bucket_bytes = 16384, .once_per_step = true}};
  for (int ep = 1; ep <= world.size(); ++ep) {
    if (world.size() % ep != 0) continue;
    for (const train::ReduceOptions& reduce : variants) {
      if (ep != world.size() && reduce.bucket_bytes != 1 << 20) continue;  // a run costs a checkpoint
      BOOST_TEST_CONTEXT("expert_parallel_size " << ep << ", ZeRO " << reduce.zero
                                                 << ", one reduction per step " << reduce.once_per_step) {
        const train::RunAccounts run =
            count_run(shape, shared.path(), ep, reduce, reduce.zero ? "owned" : "auto");
        BOOST_TEST(run.num_steps == 2);
        BOOST_TEST(comm::all_reduce_sum(world, run.flops) > 0);  // a rank may have no micro-batch
        BOOST_TEST(run.flops == run.planned_flops);
        // As text, so that a failure names the operation. No REQUIRE: the other ranks go on to the next run.
        const auto text = [](const std::map<std::string, std::int64_t>& bytes) {
          std::string all;
          for (const auto& [operation, n] : bytes) all += fmt::format("{} {} ", operation, n);
          return all;
        };
        BOOST_TEST(text(run.bytes) == text(run.planned_bytes));
        BOOST_TEST(run.memory.weights == run.planned_memory.weights);
        BOOST_TEST(run.memory.gradients == run.planned_memory.gradients);
        BOOST_TEST(run.memory.gradient_sum == run.planned_memory.gradient_sum);
        BOOST_TEST(run.memory.optimizer == run.planned_memory.optimizer);
        BOOST_TEST(run.memory.buffers == run.planned_memory.buffers);
        BOOST_TEST(run.memory.partial_sums == run.planned_memory.partial_sums);
        if (!shape.exact_memory) continue;
        BOOST_TEST(run.flops == run.balanced_flops);
        if (shape.global_batch_size / shape.micro_batch_size < world.size()) continue;  // ranks without work
        BOOST_TEST(run.memory.saved == run.planned_memory.saved);
        BOOST_TEST(run.memory.scratch == run.planned_memory.scratch);
        BOOST_TEST(run.memory.to_experts == run.planned_memory.to_experts);
        BOOST_TEST(run.memory.from_experts == run.planned_memory.from_experts);
      }
    }
  }
  world.barrier();
}

}  // namespace

BOOST_AUTO_TEST_CASE(stage_1_with_routing_known_beforehand,
                     *boost::unit_test::label("complaint_memory_estimate")) {
  check_shape({train::RunKind::stage1, {1, 2, 1, 3}, 3, 2, 10, true});
}

BOOST_AUTO_TEST_CASE(stage_1_with_learnt_routing, *boost::unit_test::label("trap_04")) {
  check_shape({train::RunKind::stage1,
               {6, 2, 1, 1, 4},
               2,
               2,
               8,
               false,
               {{90, 5, 40, 1, 30, 2}, {84, 84}, {0}, {0}, {100, 60, 5, 3}}});
}

BOOST_AUTO_TEST_CASE(stage_2, *boost::unit_test::label("complaint_memory_estimate")) {
  check_shape({train::RunKind::stage2, {2, 1, 2}, 2, 3, 12, true});
}

BOOST_AUTO_TEST_CASE(pretrain) {
  check_shape({train::RunKind::pretrain, {1, 1, 1}, 2, 2, 6, true});
}
