#pragma once
// What an allocation costs in parameters, beside its count of experts (METHOD 3.6). Used by `allocate`.
#include <string>
#include <vector>

#include "neuronmoe/model/parameter_count.hpp"

namespace nmoe::analysis {

/// Returns lines that set `counts` beside `baseline`: experts, new experts, new, total and active parameters,
/// each with its change in percent. The paper's reductions are the first line only.
std::vector<std::string> compare_parameters(const model::ParameterCount& counts,
                                            const model::ParameterCount& baseline,
                                            const std::string& baseline_name);

}  // namespace nmoe::analysis
