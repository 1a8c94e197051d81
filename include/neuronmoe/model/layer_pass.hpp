#pragma once
// What all parts of a decoder layer are given in one pass over one micro-batch. Used by Decoder, its layers
// and step_cost.
#include <cstdint>

#include "neuronmoe/model/config.hpp"
#include "neuronmoe/model/freeze_plan.hpp"
#include "neuronmoe/model/intervention.hpp"
#include "neuronmoe/model/observer.hpp"
#include "neuronmoe/model/step_memory.hpp"
#include "neuronmoe/tensor/stream.hpp"

namespace nmoe::model {

/// A layer in a micro-batch: what the shapes of its buffers follow from, but for the rows that routing gives
/// to experts. Config and plan outlive it.
struct LayerSizes {
  const ModelConfig& config;
  const LayerPlan& plan;
  int layer;
  std::int64_t num_tokens;        ///< T
  DType dtype;                    ///< of weights and activations
  bool router_losses = false;     ///< whether any auxiliary loss has a scale other than 0
  bool global_balancing = false;  ///< whether one is taken from statistics of several micro-batches

  DType acc() const { return accumulator_of(dtype); }
  int num_experts() const { return config.num_experts[static_cast<std::size_t>(layer)]; }
  /// Returns the experts of a token: adaptive k, METHOD 5 step 3.
  std::int64_t top_k() const { return config.top_k < num_experts() ? config.top_k : num_experts(); }
};

/// One pass through one layer. Everything referenced outlives it.
struct LayerPass {
  LayerSizes sizes;
  StepMemory& memory;
  ActivationObserver* observer;      ///< or null
  const Intervention* intervention;  ///< or null; observers see what it leaves
  Stream& stream;

  const LayerPlan& plan() const { return sizes.plan; }
  /// Returns what is replaced of the outputs of attention and of the dense MLP or base expert.
  LayerIntervention replaced() const { return {intervention, sizes.layer}; }
  /// Hands the observer, if there is one that wants it, the output of a projection.
  void offer(Projection projection, int expert, ConstTensorView values, ConstTensorView row_sample) const {
    const ActivationSite site{sizes.layer, projection, expert};
    if (observer != nullptr && observer->wants(site)) observer->observe(site, values, row_sample);
  }
};

/// Floating-point operations of matrix products and attention, 2 per multiply-add.
struct Flops {
  std::int64_t forward = 0, backward = 0;
};

}  // namespace nmoe::model
