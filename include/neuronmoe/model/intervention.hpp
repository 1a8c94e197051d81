#pragma once
// Neurons whose outputs a forward pass replaces (METHOD 1.9). analysis says which and by what; the layers of
// a decoder ask it at the sites that observers can watch.
#include <cstdint>
#include <span>
#include <vector>

#include "neuronmoe/model/config.hpp"
#include "neuronmoe/model/observer.hpp"
#include "neuronmoe/tensor/stream.hpp"
#include "neuronmoe/tensor/tensor.hpp"

namespace nmoe::model {

/// A unit of a projection of the dense model, and what its output becomes.
struct ReplacedNeuron {
  int layer;
  Projection projection;
  std::int32_t unit;
  float value;
};

/// What one set of neurons does to a pass: at every position their outputs (bias included; q and k before
/// norm and rotary, gate before SiLU, o and down before the residual) are the given values. In a layer with
/// experts the MLP's neurons are those of the base expert.
class Intervention {
 public:
  /// Copies units and values to the device of `stream`; values are rounded to `dtype` where they are used.
  /// @throws Error(internal) for a unit that `config` does not have or that is given twice
  Intervention(const ModelConfig& config, DType dtype, std::span<const ReplacedNeuron> neurons,
               Stream& stream);
  /// Returns the lowest layer with such a neuron, the number of layers if there is none.
  int first_layer() const { return first_layer_; }
  /// Replaces what is asked for in `outputs` [T, N], the outputs of a projection.
  void apply(int layer, Projection projection, TensorView outputs, Stream& stream) const;

 private:
  struct Site {
    int layer;
    Projection projection;
    Tensor units, values;  // [U] int32, [U] acc
  };
  int first_layer_;
  std::vector<Site> sites_;
};

/// An intervention in one layer; by default nothing is replaced. Refers to the intervention.
class LayerIntervention {
 public:
  LayerIntervention() = default;
  LayerIntervention(const Intervention* all, int layer) : all_(all), layer_(layer) {}
  void apply(Projection projection, TensorView outputs, Stream& stream) const {
    if (all_ != nullptr) all_->apply(layer_, projection, outputs, stream);
  }

 private:
  const Intervention* all_ = nullptr;  // or null
  int layer_ = 0;
};

}  // namespace nmoe::model
