#pragma once
// Neuron counts per layer from a CSV (for example the paper's tables), as input of `allocate --counts`.
#include <string>
#include <vector>

namespace nmoe::analysis {

/// Reads chosen columns of a counts CSV: a header line with a column `layer`, then one line per layer 0..L−1,
/// any order.
/// @return one vector [L] per wanted column
/// @throws Error(bad_data) naming file, line and value for a missing column (and the ones there are), a field
/// that is not a count >= 0, and missing, repeated or surplus layers.
std::vector<std::vector<double>> read_counts_csv(const std::string& path,
                                                 const std::vector<std::string>& columns);

}  // namespace nmoe::analysis
