// Gradients of a rank beside and on top of each other.
#include "neuronmoe/model/gradient_layout.hpp"

#include <algorithm>

namespace nmoe::model {

GradientLayout lay_out_gradients(std::span<const Parameter> parameters, std::span<const std::int64_t> leaves,
                                 const FreezePlan& plan) {
  const auto padded = [](std::int64_t n) { return (n + 15) / 16 * 16; };  // every view starts on a cache line
  GradientLayout layout;
  std::vector<std::int64_t> used(static_cast<std::size_t>(plan.num_segments()), 0);
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const Parameter& p = parameters[i];
    const std::int64_t n = leaves[i] * p.shape.num_elements();
    if (leaves[i] == 0) {
      layout.first.push_back(GradientLayout::none);
    } else if (plan.written_twice(p)) {
      layout.first.push_back(GradientLayout::own);
      layout.num_own += n;
    } else {
      std::int64_t& end = used[static_cast<std::size_t>(p.last_writer)];
      layout.first.push_back(end);
      end += padded(n);
    }
  }
  layout.num_shared = *std::max_element(used.begin(), used.end());
  return layout;
}

}  // namespace nmoe::model
