#pragma once
// The scorer on its own: `neuronmoe score` on a matrix from anywhere.
#include <string>

#include "neuronmoe/analysis/neuron_file.hpp"
#include "neuronmoe/comm/execution_context.hpp"

namespace nmoe::analysis {

/// Reads /responses [neuron, sample] (float32 or float64) and /labels [sample] from `input`, and writes /ap
/// [G, N], /off_mean, /off_p50, /on_p50, /on_p90, /label [G], /n_pos, /n_neg and /neurons_at_ap [G, 501] to
/// `output`. Labels are integers; label c >= 0 is a language and every sample of another label its negative.
/// With the labels 0 and 1 only, 1 is scored. float64 responses are scored as they are, not rounded. Neurons
/// are shared out over the ranks. @throws Error(bad_data) naming dataset and fault (NaN: neuron and sample).
/// Collective.
void score_file(comm::ExecutionContext& context, const std::string& input, const std::string& output,
                const Provenance& provenance);

}  // namespace nmoe::analysis
