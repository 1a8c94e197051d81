// Two allocations in words.
#include "neuronmoe/analysis/compare_parameters.hpp"

#include <fmt/format.h>

namespace nmoe::analysis {

std::vector<std::string> compare_parameters(const model::ParameterCount& counts,
                                            const model::ParameterCount& baseline,
                                            const std::string& baseline_name) {
  const auto line = [&](const char* what, std::int64_t value, std::int64_t other) {
    const std::string change =
        other == 0 ? "no change to speak of"
                   : fmt::format("{:+.1f} %",
                                 100.0 * (static_cast<double>(value) / static_cast<double>(other) - 1.0));
    return fmt::format("{}: {} ({}: {}, {})", what, value, baseline_name, other, change);
  };
  return {line("experts, base included", counts.experts, baseline.experts),
          line("new experts", counts.new_experts, baseline.new_experts),
          line("new parameters", counts.in_new_experts, baseline.in_new_experts),
          line("router parameters", counts.routers, baseline.routers),
          line("total parameters", counts.total(), baseline.total()),
          line("active parameters per token", counts.active, baseline.active)};
}

}  // namespace nmoe::analysis
