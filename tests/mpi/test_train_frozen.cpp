// Frozen weights are frozen: their hash does not depend on the layout, a changed bit on any rank is named on
// every rank, and no checkpoint is written over it.
#include <boost/test/unit_test.hpp>
#include <filesystem>

#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/data/token_file.hpp"
#include "neuronmoe/io/file_hash.hpp"
#include "neuronmoe/io/manifest.hpp"
#include "neuronmoe/train/trainer.hpp"
#include "support/mpi_fixture.hpp"
#include "support/temp_dir.hpp"
#include "support/tiny_model.hpp"

using namespace nmoe;

namespace {

const std::vector<int> num_experts = {3, 1, 2};

struct Model {
  train::ParallelGroups groups;
  Stream stream;
  model::Decoder decoder;
  Model(comm::Communicator& world, int expert_parallel_size, model::TrainableSet trainable,
        std::uint64_t seed = 4)
      : groups(world, expert_parallel_size),
        decoder(test::tiny_config(num_experts), DType::float32, trainable, groups.experts(num_experts),
                stream) {
    decoder.initialise_dense(seed);
    decoder.upcycle(seed);
  }
};

/// Flips the lowest bit of one element.
void flip(model::Parameter& p) {
  auto* const bits = static_cast<std::uint32_t*>(p.value.view().raw());
  bits[p.shape.num_elements() - 1] ^= 1U;
}

/// Flips a bit of a frozen weight at the n-th all-reduce: memory going bad in the middle of a run.
class FailingMemory : public comm::Communicator {
 public:
  FailingMemory(comm::Communicator& inner, model::Parameter& victim, int when)
      : inner_(inner), victim_(victim), left_(when) {}
  int rank() const override { return inner_.rank(); }
  int size() const override { return inner_.size(); }
  comm::Work all_reduce(TensorView inout, comm::ReduceOp op, Stream& stream) override {
    if (--left_ == 0) flip(victim_);
    return inner_.all_reduce(inout, op, stream);
  }
  comm::Work all_gather_v(TensorView recv, std::span<const std::int64_t> counts, ConstTensorView send,
                          Stream& stream) override {
    return inner_.all_gather_v(recv, counts, send, stream);
  }
  comm::Work all_to_all_v(TensorView recv, std::span<const std::int64_t> recv_counts, ConstTensorView send,
                          std::span<const std::int64_t> send_counts, Stream& stream) override {
    return inner_.all_to_all_v(recv, recv_counts, send, send_counts, stream);
  }
  comm::Work broadcast(TensorView buffer, int root, Stream& stream) override {
    return inner_.broadcast(buffer, root, stream);
  }
  void barrier() override { inner_.barrier(); }
  std::unique_ptr<comm::Communicator> split(int color, int key) override { return inner_.split(color, key); }
  void drain() override { inner_.drain(); }
  void* native() const override { return inner_.native(); }
  void close() override { inner_.close(); }
  std::string last_operation() const override { return inner_.last_operation(); }
  const comm::CollectiveCounters& counters() const override { return inner_.counters(); }

 private:
  comm::Communicator& inner_;
  model::Parameter& victim_;
  int left_;
};

void write_tokens(comm::Communicator& comm, const std::string& path, std::uint32_t last) {
  data::TokenDocuments documents;
  if (comm.rank() == 0) {
    for (std::uint32_t doc = 0; doc < 30; ++doc) {
      for (std::uint32_t i = 0; i < 9; ++i) documents.ids.push_back(3 + (doc * 7 + i * i) % 16);
      documents.ids.push_back(2);
      documents.lengths.push_back(10);
      documents.lang.push_back(0);
      documents.mark.push_back(0);
    }
    documents.ids[5] = last;
  }
  data::TokenFileInfo info;
  info.vocab_size = 19;
  info.eos_id = 2;
  info.languages = {"el"};
  data::write_token_file(comm, path, documents, info);
}

std::string run_training(comm::Communicator& world, Model& m, const std::string& directory,
                         std::int64_t steps) {
  const Logger log(world.rank(), true);
  comm::Heartbeat heartbeat;
  const comm::ExecutionContext context{world, Device::cpu, m.stream, log, heartbeat};
  train::TrainRun run;
  run.kind = train::RunKind::stage2;
  run.output_dir = directory + "/run";
  run.config.steps = steps;
  run.config.seq_length = 8;
  run.config.micro_batch_size = 2;
  run.config.global_batch_size = 4;
  run.config.save_every = 1;
  run.identity.provenance_json = "{}\n";
  run.identity.tokens_hash = io::file_hash(world, directory + "/tokens.h5");
  const data::Mixture mixture =
      data::make_mixture({{.name = "all", .tokens = directory + "/tokens.h5"}}, 8, false, run.config.seed);
  return train::Trainer(context, run, m.groups, m.decoder, mixture).run().checkpoint;
}

}  // namespace

BOOST_AUTO_TEST_CASE(digest_does_not_depend_on_the_layout) {
  comm::Communicator& world = test::world();
  const auto alone = world.split(world.rank(), 0);
  Model reference(*alone, 1, model::TrainableSet::routers);
  const std::string expected = train::FrozenWeights(*alone, reference.decoder).digest();
  BOOST_TEST(expected.size() == 64U);
  for (const int size : {1, 2, world.size()}) {
    if (world.size() % size != 0) continue;
    Model m(world, size, model::TrainableSet::routers);
    const train::FrozenWeights frozen(world, m.decoder);
    BOOST_TEST(frozen.digest() == expected);
    frozen.check();
  }
  Model all(world, 1, model::TrainableSet::all);
  BOOST_TEST(train::FrozenWeights(world, all.decoder).digest() == "");
  Model other(world, 1, model::TrainableSet::routers, 5);
  BOOST_TEST(train::FrozenWeights(world, other.decoder).digest() != expected);
  alone->close();
}

BOOST_AUTO_TEST_CASE(one_bit_on_one_rank_is_named_on_every_rank, *boost::unit_test::label("trap_18")) {
  comm::Communicator& world = test::world();
  Model m(world, 1, model::TrainableSet::experts_and_routers);
  const train::FrozenWeights frozen(world, m.decoder);
  const std::string victim = "model.layers.1.self_attn.k_proj.weight";
  flip(m.decoder.parameter("model.layers.0.mlp.router.weight"));  // trains: its bits may change
  frozen.check();
  if (world.rank() == world.size() - 1) flip(m.decoder.parameter(victim));
  BOOST_TEST(test::expect_error(ErrorCode::internal, {victim, "has changed"}, [&] { frozen.check(); }) == "");
  if (world.size() == 1) return;
  BOOST_TEST(test::expect_error(ErrorCode::internal, {victim, "not the same on every rank"},
                                [&] { train::FrozenWeights again(world, m.decoder); }) == "");
}

BOOST_AUTO_TEST_CASE(no_checkpoint_over_a_changed_base) {
  comm::Communicator& world = test::world();
  const test::SharedDirectory dir("frozen");
  write_tokens(world, dir.path() + "/tokens.h5", 4);
  Model m(world, 1, model::TrainableSet::routers);
  const std::string first = run_training(world, m, dir.path(), 2);
  const std::string expected = train::FrozenWeights(world, m.decoder).digest();
  BOOST_TEST(io::read_manifest_facts(first)["frozen_sha256"] == expected);

  Model failing(world, 1, model::TrainableSet::routers);
  const std::string victim = "model.layers.2.mlp.experts.1.down_proj.weight";  // frozen in stage 2
  FailingMemory bad(world, failing.decoder.parameter(victim),
                    50);  // some steps after the resume
  BOOST_TEST(test::expect_error(ErrorCode::internal, {victim, "has changed"},
                                [&] { run_training(bad, failing, dir.path(), 12); }) == "");
  std::int64_t newest = io::newest_valid_step(world, dir.path() + "/run").step;
  BOOST_TEST((newest >= 2 && newest < 12));
  world.barrier();

  Model other(world, 1, model::TrainableSet::routers, 5);
  BOOST_TEST(test::expect_error(ErrorCode::bad_data, {"frozen weights with hash", expected},
                                [&] { run_training(world, other, dir.path(), 12); }) == "");
  world.barrier();
  write_tokens(world, dir.path() + "/tokens.h5", 5);
  Model again(world, 1, model::TrainableSet::routers);
  BOOST_TEST(test::expect_error(ErrorCode::bad_data, {"token files with hash", "train.init_from"},
                                [&] { run_training(world, again, dir.path(), 12); }) == "");
}
