// Where a run starts and what it leaves: resuming and saving checkpoints.
#include <chrono>
#include <filesystem>

#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/io/manifest.hpp"
#include "neuronmoe/train/base_files.hpp"
#include "neuronmoe/train/config_changes.hpp"
#include "neuronmoe/train/trainer.hpp"
#include "run_record.hpp"

namespace nmoe::train {

namespace {

model::ExpertTokens plus(model::ExpertTokens counts, const model::ExpertTokens& earlier) {
  for (std::size_t l = 0; l < earlier.size(); ++l) {
    for (std::size_t e = 0; e < earlier[l].size(); ++e) counts[l][e] += earlier[l][e];
  }
  return counts;
}

/// Bytes of the files of a checkpoint; 0 where they cannot be asked for.
std::int64_t bytes_in(const std::string& directory) {
  std::int64_t total = 0;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(directory, ignored)) {
    const auto size = entry.file_size(ignored);
    if (!ignored) total += static_cast<std::int64_t>(size);
  }
  return total;
}

}  // namespace

void Trainer::refuse_newer_steps(std::int64_t step) const {
  comm::agree(context_.world, [&] {
    if (context_.world.rank() != 0 || !std::filesystem::is_directory(run_.output_dir)) return;
    for (const auto& entry : std::filesystem::directory_iterator(run_.output_dir)) {
      const auto found = io::step_of_directory_name(entry.path().filename());
      NMOE_CHECK(!found || *found <= step, config,
                 "{} holds {}, which is newer than where --resume {} starts; "
                 "choose another --output or remove the newer checkpoints",
                 run_.output_dir, entry.path().filename().string(), run_.resume);
    }
  });
}

std::string Trainer::directory_to_resume() const {
  if (run_.resume == resume_none) {
    refuse_newer_steps(-1);
    return "";
  }
  std::string directory = run_.resume;
  if (run_.resume == resume_auto) {
    const io::ValidStep newest = io::newest_valid_step(context_.world, run_.output_dir);
    NMOE_CHECK(
        newest || newest.skipped.empty(), bad_data,
        "none of the {} checkpoints in {} is intact ({}); nothing was removed: repair one, or start anew "
        "with --resume none in another --output or after moving them away",
        newest.skipped.size(), run_.output_dir, newest.skipped.front());
    if (context_.world.rank() == 0) {
      for (const std::string& skipped : newest.skipped) context_.log.warn("ignored {}", skipped);
    }
    directory = newest.directory;
  } else {
    const std::string fault = io::verify_manifest(context_.world, directory);
    NMOE_CHECK(fault.empty(), bad_data, "--resume {}: {}", directory, fault);
    refuse_newer_steps(io::step_of_directory_name(std::filesystem::path(directory).filename()).value_or(0));
  }
  if (directory.empty() || context_.world.rank() != 0) return directory;
  for (const std::string& name : io::stray_files(directory))
    context_.log.warn("{}/{} is not part of the checkpoint; it is left alone", directory, name);
  return directory;
}

void Trainer::resume() {
  const std::string directory = directory_to_resume();
  if (directory.empty()) return;
  std::vector<ConfigChange> changes;
  comm::agree(context_.world, [&] {
    io::ManifestFacts facts = io::read_manifest_facts(directory);
    const std::string base = facts["base_model_sha256"], tokens = facts["tokens_sha256"];
    NMOE_CHECK(
        base == run_.identity.base_model_hash, bad_data,
        "{}: was trained on a base model with hash {}, --model has {}{}; pass the same base, or start a new "
        "run in another --output",
        directory, base, run_.identity.base_model_hash,
        base_difference(facts["base_model_files"], run_.identity.base_model_files));
    NMOE_CHECK(
        tokens.empty() || tokens == run_.identity.tokens_hash, bad_data,
        "{}: was trained on token files with hash {}, now they have {}; the data would change: pass the same "
        "files, or start a new run with train.init_from = {}",
        directory, tokens, run_.identity.tokens_hash, directory);
    const Origin stored = stored_origin(directory);
    const bool extends = !decoder_.config().num_old_experts.empty() && run_.kind == RunKind::stage1;
    NMOE_CHECK(!extends || stored.hash.empty() || stored.hash == origin_.hash, bad_data,
               "{}: its run began with the experts of {} with hash {}, train.init_from = {} has {}; pass the "
               "checkpoint it began with, or start a new run in another --output",
               directory, stored.checkpoint, stored.hash, origin_.checkpoint, origin_.hash);
    if (!stored.hash.empty()) origin_ = stored;
    changes = config_changes(stored_config(directory), run_.identity.resolved_config);
    require_resumable(directory, changes);
  });
  progress_ = load_checkpoint(context_, directory, decoder_, optimizer_);
  if (!changes.empty() && context_.world.rank() == 0)
    context_.log.warn("{}: the configuration has changed since this checkpoint: {}", directory,
                      to_string(changes));
  NMOE_CHECK(progress_.seed == run_.config.seed, config,
             "{}: seed {} stored, train.seed = {}; data order would change", directory, progress_.seed,
             run_.config.seed);
  NMOE_CHECK(progress_.samples_seen == progress_.step * run_.config.global_batch_size &&
                 progress_.cursors == mixture_.cursors(static_cast<std::uint64_t>(progress_.samples_seen)),
             config,
             "{}: {} samples in {} steps stored, train.global_batch_size = {}; the data order would change: "
             "resume with the same batch size and data sets",
             directory, progress_.samples_seen, progress_.step, run_.config.global_batch_size);
  resumed_from_ = directory;
  tokens_before_ = progress_.expert_tokens;
  context_.log.info("resumed {} at step {} of {}", directory, progress_.step, run_.config.steps);
}

std::string Trainer::save(RunRecord& record) {
  const auto began = std::chrono::steady_clock::now();
  context_.heartbeat.longest_gap_s = 0;  // storage has other times than steps
  record.sync();
  finish_pending_gather(record);
  frozen_->check();
  context_.heartbeat.beat();
  RunIdentity identity = run_.identity;
  identity.frozen_hash = frozen_->digest();
  identity.origin = origin_;
  if (decoder_.config().num_moe_layers() > 0)
    progress_.expert_tokens =
        plus(sum_over_ranks(context_.world, decoder_.routed_slots(), context_.stream), tokens_before_);
  progress_.cursors = mixture_.cursors(static_cast<std::uint64_t>(progress_.samples_seen));
  const std::string directory = save_checkpoint(context_, run_.output_dir, optimizer_, progress_, identity);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  record.add_save(directory, seconds, context_.world.rank() == 0 ? bytes_in(directory) : 0);
  for (const std::string& removed : io::prune_steps(context_.world, run_.output_dir, run_.config.keep_last)) {
    context_.log.info("removed {}", removed);
  }
  return directory;
}

}  // namespace nmoe::train
