// Counts of tokens per expert from the checkpoint that train.placement_tokens means.
#include "expert_counts.hpp"

#include <algorithm>
#include <filesystem>

#include "model_setup.hpp"
#include "neuronmoe/base/error.hpp"
#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/io/manifest.hpp"

namespace nmoe::app {
namespace {

namespace fs = std::filesystem;

/// The step a resume goes on from, as far as state.h5 tells: the trainer checks the rest of it. "" = none.
std::string resumed_step(const RunConfig& run) {
  if (run.resume == train::resume_none) return "";
  std::vector<std::string> steps;
  if (run.resume != train::resume_auto) {
    steps.push_back(run.resume);
  } else if (fs::is_directory(run.output)) {
    for (const auto& entry : fs::directory_iterator(run.output)) {
      if (io::step_of_directory_name(entry.path().filename().string()))
        steps.push_back(entry.path().string());
    }
  }
  std::sort(steps.rbegin(), steps.rend());
  const auto whole = std::find_if(steps.begin(), steps.end(), [](const std::string& step) {
    return io::verify_file(step, "state.h5").empty();
  });
  return whole == steps.end() ? "" : *whole;
}

}  // namespace

train::MeasuredTokens placement_tokens(comm::ExecutionContext& context, const AppConfig& config,
                                       const model::ModelConfig& architecture, const std::string& init_from) {
  const std::string& from = config.train.placement_tokens_from;
  if (config.train.placement_tokens == train::PlacementTokens::expected) {
    NMOE_CHECK(from.empty(), config,
               "train.placement_tokens_from = {} says nothing with "
               "train.placement_tokens = expected; set it to measured",
               from);
    return {};
  }
  std::vector<std::string> sources;
  if (from.empty()) {
    const std::string resumed = on_rank_zero(context, [&] { return resumed_step(config.run); });
    for (const std::string& step : {resumed, init_from}) {
      if (!step.empty()) sources.push_back(step);
    }
  } else {
    sources.push_back(resolve_checkpoint(context, from));
  }
  train::MeasuredTokens found;
  comm::agree(context.world, [&] {
    for (const std::string& step : sources) {
      if (!found) found = train::measured_tokens(step, architecture);
    }
    NMOE_CHECK(
        found || from.empty(), bad_data,
        "{}: no tokens per expert are counted in it (/routing of state.h5); take a checkpoint of a later "
        "run or leave train.placement_tokens_from out",
        sources.front());
  });
  if (!found) {
    context.log.info("train.placement_tokens = measured: {}; expected tokens are taken",
                     sources.empty() ? "there is no checkpoint to go on from"
                                     : sources.back() + " has no counts of tokens per expert");
  }
  return found;
}

}  // namespace nmoe::app
