#pragma once
// Sites of the decoder whose outputs can be watched (METHOD 1.3 and 8). analysis implements
// ActivationObserver; the decoder calls it during forward. A forward with an observer is an evaluation pass,
// never the training batch.
#include <cstdint>

#include "neuronmoe/model/config.hpp"
#include "neuronmoe/tensor/tensor.hpp"

namespace nmoe::model {

/// The seven projections in the lexicographic order of METHOD 1.3, and the MLP input (layer similarity,
/// METHOD 4.1).
enum class Projection { down, gate, up, k, o, q, v, mlp_input };

/// Returns how many outputs a projection has at a token.
std::int64_t projection_width(const ModelConfig& config, Projection projection);

/// A place in the decoder. `expert` is −1 for dense projections, 0 for the base and e >= 1 for exp_{e−1} of
/// MoE layers.
struct ActivationSite {
  int layer;
  Projection projection;
  int expert;
};

class ActivationObserver {
 public:
  virtual ~ActivationObserver() = default;
  /// Returns whether the observer wants a site. Asked before anything is prepared for a site; the answer may
  /// not depend on data.
  virtual bool wants(const ActivationSite& site) const = 0;
  /// Returns whether values may come in the memory of the decoder's device, written by kernels queued on its
  /// stream and good for work queued there before `observe` returns. If not, they are copied to the host.
  /// row_sample is always on the host.
  virtual bool takes_device_values() const { return false; }
  /// @param values [T, N] raw projection output (bias included, before rotary, SiLU or residual), model
  /// dtype; for expert sites T is the tokens routed to it.   @param row_sample [T] int32 sample of each row.
  /// Rows are in token order.
  virtual void observe(const ActivationSite& site, ConstTensorView values, ConstTensorView row_sample) = 0;
  /// Watches the routing of one MoE layer: probs [T, E], weights [T, K] acc, indices [T, K] int32. Default:
  /// not watched.
  virtual void observe_router(int /*layer*/, ConstTensorView /*probs*/, ConstTensorView /*weights*/,
                              ConstTensorView /*indices*/, ConstTensorView /*row_sample*/) {}
};

}  // namespace nmoe::model
