#pragma once
// Whole training runs of a tiny mixture with files: what the tests of checkpoints and resuming share.
#include <string>
#include <vector>

#include "neuronmoe/base/sha256.hpp"
#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/io/manifest.hpp"
#include "neuronmoe/model/checkpoint_weights.hpp"
#include "neuronmoe/train/trainer.hpp"
#include "support/mpi_fixture.hpp"
#include "support/tiny_model.hpp"
#include "support/token_corpus.hpp"

namespace nmoe::test {

struct TrainingOptions {
  std::string output;
  train::RunKind kind = train::RunKind::stage1;
  int expert_parallel_size = 1;
  std::int64_t steps = 6;
  bool stop_before_first_step = false;
  std::string resume = "auto";
  std::vector<int> num_experts = {3, 1, 2};
  std::int64_t global_batch_size = 10;
  model::ExpertTokens measured = {};  ///< what owned experts are placed by
  train::ReduceEvery reduce_every = train::ReduceEvery::micro_step;
  std::string extend_from = {};           ///< step directory whose experts the run adds to
  std::vector<int> num_old_experts = {};  ///< of the mixture there
  model::ExtendRouter extend_router = model::ExtendRouter::redraw;
};

/// Returns the SHA-256 of all frozen weights after the run.
inline std::string run_training(comm::Communicator& world, const std::string& tokens,
                                const TrainingOptions& options, train::TrainResult* out = nullptr) {
  const train::ParallelGroups groups(world, options.expert_parallel_size);
  model::ModelConfig config = tiny_config(options.num_experts);
  config.num_old_experts = options.num_old_experts;
  Stream stream;
  const Logger log(world.rank(), true);
  comm::Heartbeat heartbeat;
  heartbeat.stop_requested = options.stop_before_first_step;
  const comm::ExecutionContext context{world, Device::cpu, stream, log, heartbeat};
  model::Decoder decoder(config, DType::float32, train::trainables_of(options.kind),
                         groups.experts(config.num_experts, 0, model::ExpertHome::owned, options.measured),
                         stream);
  decoder.initialise_dense(4);
  decoder.upcycle(4);
  if (!options.extend_from.empty())
    model::load_old_experts(decoder, options.extend_from, options.extend_router);
  train::TrainRun run;
  run.kind = options.kind;
  run.output_dir = options.output;
  run.resume = options.resume;
  run.config.steps = options.steps;
  run.config.seq_length = 8;
  run.config.micro_batch_size = 2;
  run.config.global_batch_size = options.global_batch_size;
  run.config.reduce_every = options.reduce_every;
  run.config.learning_rate = 1e-2;
  run.config.save_every = 3;
  run.identity.resolved_config = "[train]\nsteps = 6\n";
  run.identity.version = "test";
  if (!options.extend_from.empty()) run.identity.origin = train::origin_of(options.extend_from);
  run.identity.provenance_json = fmt::format("{{\"ranks\": {}}}\n", world.size());
  const data::Mixture mixture =
      data::make_mixture({{.name = "all", .tokens = tokens}}, run.config.seq_length, false, run.config.seed);
  train::Trainer trainer(context, run, groups, decoder, mixture);
  const train::TrainResult result = trainer.run();
  if (out != nullptr) *out = result;
  Sha256 frozen;
  for (const model::Parameter& p : decoder.parameters()) {
    if (!p.trainable && !p.is_new_expert())
      frozen.update(p.value.view().raw(), static_cast<std::size_t>(p.value.view().num_bytes()));
  }
  return frozen.hex();
}

inline std::string digest(const std::string& step_dir) {
  std::string text;
  for (const char* file : {"/model.h5", "/optim.h5", "/state.h5"}) text += sha256_file(step_dir + file) + " ";
  return text;
}

inline std::string step_dir(const std::string& run, std::int64_t step) {
  return run + "/" + io::step_directory_name(step);
}

/// The run on one rank that every layout is compared with; made by rank 0, in `directory`/alone.
inline void run_alone(const std::string& directory, const std::string& tokens, train::RunKind kind) {
  comm::Communicator& world = test::world();
  const std::unique_ptr<comm::Communicator> alone = world.split(world.rank(), 0);
  comm::agree(world, [&] {
    if (world.rank() == 0) run_training(*alone, tokens, {.output = directory + "/alone", .kind = kind});
  });
  alone->close();
}

}  // namespace nmoe::test
