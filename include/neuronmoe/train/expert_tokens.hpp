#pragma once
// Tokens per layer and expert: counted by every run, kept in its checkpoints (/routing of state.h5), read
// again to spread the experts of a later run (train.placement_tokens). Used by Trainer, plan and app.
#include <string>

#include "neuronmoe/comm/communicator.hpp"
#include "neuronmoe/io/hdf5_file.hpp"
#include "neuronmoe/model/config.hpp"
#include "neuronmoe/model/expert_placement.hpp"

namespace nmoe::train {

/// Counts and the checkpoint they are from. Empty: none, what top_k lets expect takes their place.
struct MeasuredTokens {
  model::ExpertTokens counts;
  std::string source;
  explicit operator bool() const { return !counts.empty(); }
  /// Returns "expected tokens" or "tokens counted in SOURCE".
  std::string to_string() const;
};

/// Returns `mine` summed over the ranks; exact, so the same for every layout. Collective.
model::ExpertTokens sum_over_ranks(comm::Communicator& comm, const model::ExpertTokens& mine, Stream& stream);
/// Writes /routing [L, most experts] uint64; collective if `state` is. Elements are 0 past the end of a
/// layer; nothing if `tokens` is empty.
void write_expert_tokens(io::H5File& state, const model::ExpertTokens& tokens);
/// Returns what write_expert_tokens left in an open state.h5; empty if there is nothing. Collective if
/// `state` is.
/// @throws Error(bad_data) unless it fits the model: its layers and experts, and min(top_k, E) experts for
/// every token in each layer.
model::ExpertTokens read_expert_tokens(io::H5File& state, const model::ModelConfig& model);
/// Returns the same from a step directory. Empty also if it was converted or no token has been counted yet.
/// Not collective.
MeasuredTokens measured_tokens(const std::string& step_dir, const model::ModelConfig& model);

}  // namespace nmoe::train
