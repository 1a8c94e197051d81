// neuronmoe score: the average-precision scorer on a matrix from anywhere.
#include "commands.hpp"
#include "model_setup.hpp"
#include "neuronmoe/analysis/score.hpp"
#include "neuronmoe/app/schema.hpp"
#include "neuronmoe/app/version.hpp"
#include "neuronmoe/io/file_seal.hpp"
#include "neuronmoe/io/same_file.hpp"
#include "trial_read.hpp"

namespace nmoe::app {

namespace {

/// A file of ours is compared with its checksum, anybody else's tried on what is read of it. Collective.
void verify_input(comm::ExecutionContext& context, const std::string& path) {
  const bool ours = on_rank_zero(context, [&] { return io::has_seal(path) ? "yes" : ""; }) == "yes";
  if (ours)
    verify_h5_inputs(context, {path});
  else
    trial_read(context, path, {"/responses", "/labels"});
}

}  // namespace

int run_score(comm::ExecutionContext& context, const AppConfig& config) {
  if (!config.score.input.empty()) {
    io::require_same_file(context.world, config.score.input);
    verify_input(context, config.score.input);
  }
  analysis::Provenance provenance;
  provenance.config = config_to_ini(config, false);
  provenance.version = version();
  analysis::score_responses(context,
                            {config.score.input, config.score.synthetic, config.score.memory_mb * 1'000'000},
                            config.run.output, provenance);
  context.log.info("{}: written", config.run.output);
  return 0;
}

}  // namespace nmoe::app
