#pragma once
// Which neuron is which (METHOD 1.3) and which of them are specific to a language (METHOD 1.7).
// analyze writes both into neurons.h5; allocate reads them back.
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "neuronmoe/model/config.hpp"
#include "neuronmoe/model/observer.hpp"

namespace nmoe::analysis {

/// One Linear module: `width` neurons with uuid = offset + unit.
struct Module {
  std::string name;  ///< e.g. model.layers.0.mlp.down_proj:0
  int layer = 0;
  model::Projection projection = model::Projection::down;
  int expert = -1;  ///< −1 dense; 0 base and e >= 1 exp_{e−1} in expert tables
  std::int64_t width = 0, offset = 0;
};

/// The modules in uuid order.
class ModuleTable {
 public:
  ModuleTable() = default;
  /// The seven projections of every layer in byte-wise order of their names: layers 0, 1, 10, 11, ..., 2, ...
  explicit ModuleTable(const model::ModelConfig& config);
  /// Takes modules as they are, in order; offsets are computed from the widths.
  explicit ModuleTable(std::vector<Module> modules);

  const std::vector<Module>& modules() const { return modules_; }
  std::int64_t num_neurons() const { return num_neurons_; }
  int num_layers() const { return num_layers_; }
  /// Index of the module that holds `uuid`.
  std::size_t module_of(std::int64_t uuid) const;

 private:
  std::vector<Module> modules_;
  std::int64_t num_neurons_ = 0;
  int num_layers_ = 0;
};

/// Returns "base", or "exp_0", "exp_1", ... for expert 1, 2, ...
std::string expert_name(int expert);

/// Base and new experts of every layer of an MoE: per (layer, expert) down, gate, up. Layers in numeric
/// order; a dense layer has its base only (METHOD 8).
ModuleTable expert_module_table(const model::ModelConfig& config);

struct SelectedNeuron {
  std::uint64_t uuid;
  std::uint32_t module, unit;
  double ap;
};

/// The language-specific neurons of one language.
struct Selection {
  std::vector<SelectedNeuron> neurons;  ///< AP as float32 descending, then uuid ascending
  std::int64_t top_k = 0;
  double ap_min = 0.0, threshold = 0.0;  ///< threshold: AP of the last one selected
  std::string rule;
  std::vector<std::string> warnings;
};

/// First `top_k` neurons by AP among those with AP strictly above `ap_min`. Warns if fewer remain, and if the
/// cut lies at AP >= 0.999, where ties by uuid favour the early layers.   @param ap [N]
Selection select_neurons(std::span<const double> ap, const ModuleTable& modules, std::int64_t top_k,
                         double ap_min);

/// The paper's 1000 of 774,144 neurons scaled to this model; at least 100 but never more than 1 % of the
/// neurons, because 0.13 % of a small model is too few to count by layer.
std::int64_t default_top_k(std::int64_t num_neurons);

}  // namespace nmoe::analysis
