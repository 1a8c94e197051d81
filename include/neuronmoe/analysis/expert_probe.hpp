#pragma once
// Specialization of the experts while they train: one row per probe in RUN/expert_probe.h5. `train` appends
// to it every expert_ap.every steps, from a fixed set of sentences.
#include <cstdint>
#include <string>

#include "neuronmoe/analysis/specialize.hpp"

namespace nmoe::analysis {

/// Appends one probe: /step u64[P], /high_ap and /zero_samples u64[P, G, experts], /num_tokens u64[P, G,
/// experts] (tokens of the language's sentences that the expert received), beside /language, /expert/{layer,
/// id, total}. Probes of `step` and later ones, left by a run that was resumed from an earlier checkpoint,
/// are replaced. The file is rewritten as a whole. On rank 0, within comm::agree.
/// @throws Error(config) if the file there is of other languages or experts
void append_probe(const std::string& path, std::int64_t step, const ExpertStatistics& statistics);

}  // namespace nmoe::analysis
