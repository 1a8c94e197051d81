#pragma once
// The scorer on its own: `neuronmoe score` on a matrix from anywhere.
#include <cstdint>
#include <string>

#include "neuronmoe/analysis/neuron_file.hpp"
#include "neuronmoe/comm/execution_context.hpp"

namespace nmoe::analysis {

/// What to score.
struct ScoreRequest {
  std::string input;      ///< HDF5 file with /responses [neuron, sample] and /labels [sample] ...
  std::string synthetic;  ///< ... or "NEURONSxSAMPLESxLANGUAGES", made on the fly
  std::int64_t memory_bytes = std::int64_t{1} << 30;  ///< responses a rank holds at a time
};

/// Scores /responses (float32 or float64) and writes every statistic [G, N] under its name, /label [G],
/// /n_pos, /n_neg and /neurons_at_ap [G, 501] to `output`. Labels are integers; label c >= 0 is a language
/// and every sample of another label its negative. With the labels 0 and 1 only, 1 is scored. float64
/// responses are scored as they are, not rounded. Neurons are shared out over the ranks, and each takes its
/// own slab by slab; neither changes a bit of the result. Reports the time of input and of scoring apart.
/// @throws Error(bad_data) naming dataset and fault (NaN: neuron and sample).   Collective.
void score_responses(comm::ExecutionContext& context, const ScoreRequest& request, const std::string& output,
                     const Provenance& provenance);

}  // namespace nmoe::analysis
