#pragma once
// Where the gradients of a rank lie: pure arithmetic, for Decoder and for train's plan.
#include <cstdint>
#include <span>
#include <vector>

#include "neuronmoe/model/freeze_plan.hpp"

namespace nmoe::model {

/// Backward segments share one memory of the size of the largest (Decoder::share_gradients); a tensor that
/// two segments write has its own.
struct GradientLayout {
  static constexpr std::int64_t none = -1, own = -2;
  std::vector<std::int64_t> first;  ///< of each parameter, element of the shared memory; none; own
  std::int64_t num_shared = 0;      ///< elements of the shared memory
  std::int64_t num_own = 0;         ///< of all others together
};
/// @param leaves of each parameter on this rank; 0: it has no gradient here
GradientLayout lay_out_gradients(std::span<const Parameter> parameters, std::span<const std::int64_t> leaves,
                                 const FreezePlan& plan);

}  // namespace nmoe::model
