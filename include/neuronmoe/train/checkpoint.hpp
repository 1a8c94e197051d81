#pragma once
// Checkpoints of a training run (docs/formats.md): model.h5, optim.h5, state.h5 under step_NNNNNNNNNN/,
// committed whole, the same bytes for any layout, readable by any layout. Used by Trainer.
#include <cstdint>
#include <string>
#include <vector>

#include "neuronmoe/comm/execution_context.hpp"
#include "neuronmoe/io/file_format.hpp"
#include "neuronmoe/train/expert_tokens.hpp"
#include "neuronmoe/train/sharded_optimizer.hpp"

namespace nmoe::train {

inline constexpr io::FileFormat state_format{"neuronmoe-state", 1};

/// Where a run stands; everything a resume needs besides weights and optimizer state.
struct TrainProgress {
  std::int64_t step = 0;  ///< completed optimizer steps
  std::int64_t tokens_seen = 0, samples_seen = 0, skipped_steps = 0;
  std::int64_t optimizer_steps = 0;  ///< updates made: the count of the bias corrections
  int nan_steps_in_a_row = 0;        ///< skipped steps up to now without a good one between
  double learning_rate = 0.0;
  std::uint64_t seed = 0;
  std::vector<std::uint64_t> cursors;  ///< samples each data set has given
  /// Tokens each expert was given in training passes, over all ranks; empty without a MoE layer. A run that
  /// resumes a checkpoint without them counts from there.
  model::ExpertTokens expert_tokens;
};

/// The checkpoint whose experts a run started from; empty for a run that started from the dense base.
struct Origin {
  std::string checkpoint;  ///< step directory
  std::string hash;        ///< SHA-256 of its manifest.json, hence of all that it holds
};

/// What a checkpoint says about the run it belongs to.
struct RunIdentity {
  std::string resolved_config;   ///< INI without layout keys
  std::string base_model;        ///< directory of the frozen base, or "" in pretrain
  std::string base_model_hash;   ///< model::model_directory_hash of it
  std::string base_model_files;  ///< base_files() of it; "" where they are not known
  Origin origin;
  std::string tokens_hash;  ///< of the names and bytes of all token files
  std::string frozen_hash;  ///< FrozenWeights::digest; the trainer fills it in
  std::string version;
  std::string provenance_json;  ///< whatever may differ between layouts; written beside, not inside
};

/// Returns the bytes of a parameter's tensors in a checkpoint: its values in `dtype` where they are stored,
/// float32 masters and moments where it trains.
std::int64_t checkpoint_bytes(const model::Parameter& parameter, DType dtype);
/// Returns about how many bytes a checkpoint of this model takes on the disk.
std::int64_t checkpoint_bytes(const model::Decoder& decoder);

/// Writes and commits RUN/step_NNNNNNNNNN. Checks free space first. Collective over the world.
/// @throws Error(no_space|io), the same on every rank; older checkpoints stay as they are.
std::string save_checkpoint(const comm::ExecutionContext& context, const std::string& run_dir,
                            ShardedOptimizer& optimizer, const TrainProgress& progress,
                            const RunIdentity& identity);

/// Loads weights, optimizer state and progress from a committed step directory, whatever layout wrote it.
/// Collective.
/// @throws Error(bad_data) if it belongs to another model or set of trainables.
TrainProgress load_checkpoint(const comm::ExecutionContext& context, const std::string& step_dir,
                              model::Decoder& decoder, ShardedOptimizer& optimizer);

/// Returns the origin that a checkpoint says it has; empty if it says nothing.
Origin stored_origin(const std::string& step_dir);
/// Returns a committed step directory as the origin of a run. @throws Error(bad_data) without a manifest.
Origin origin_of(const std::string& step_dir);

/// Returns the configuration stored in a checkpoint, for comparison with the one a resume is given. Reads
/// state.h5; not collective. @throws Error(bad_data, io)
std::string stored_config(const std::string& step_dir);

}  // namespace nmoe::train
