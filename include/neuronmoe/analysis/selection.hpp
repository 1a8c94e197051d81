#pragma once
// Which neuron is which (METHOD 1.3) and which of them are specific to a language (METHOD 1.7).
// analyze writes both into neurons.h5; allocate reads them back.
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "neuronmoe/base/enum_names.hpp"
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
  /// Lists the seven projections of every layer in byte-wise order of their names: layers 0, 1, 10, 11, ...,
  /// 2, ... A layer with experts has gate, up and down of each of them, by the names of expert_module_table.
  explicit ModuleTable(const model::ModelConfig& config);
  /// Takes modules as they are, in order; offsets are computed from the widths.
  explicit ModuleTable(std::vector<Module> modules);

  const std::vector<Module>& modules() const { return modules_; }
  std::int64_t num_neurons() const { return num_neurons_; }
  int num_layers() const { return num_layers_; }
  /// Returns the index of the module that holds `uuid`.
  std::size_t module_of(std::int64_t uuid) const;

 private:
  std::vector<Module> modules_;
  std::int64_t num_neurons_ = 0;
  int num_layers_ = 0;
};

/// Returns "base", or "exp_0", "exp_1", ... for expert 1, 2, ...
std::string expert_name(int expert);

/// Lists base and new experts of every layer of an MoE: per (layer, expert) down, gate, up. Layers in numeric
/// order; a dense layer has its base only (METHOD 8).
ModuleTable expert_module_table(const model::ModelConfig& config);

struct SelectedNeuron {
  std::uint64_t uuid;
  std::uint32_t module, unit;
  double ap;
};

/// The order of neurons whose AP is the same as float32 (METHOD 1.7a): a draw that favors no layer, the order
/// of rows, or the separation of the responses.
enum class Ties { random, uuid, separation };
constexpr auto enum_names(Ties) {
  return std::to_array<EnumName<Ties>>(
      {{Ties::random, "random"}, {Ties::uuid, "uuid"}, {Ties::separation, "separation"}});
}

/// What decides which neurons are selected.
struct SelectionRule {
  std::int64_t top_k = 0;
  double ap_min = 0.0;
  Ties ties = Ties::random;
  std::uint64_t seed = 0;  ///< of `random`
  bool operator==(const SelectionRule&) const = default;
};

/// The neurons at the cut: those whose AP is, as float32, that of the last one selected.
struct CutTies {
  double ap = 0.0;                              ///< that AP; 0 if nothing was selected
  std::int64_t tied = 0, taken = 0;             ///< how many have it, and how many of them were selected
  bool decide() const { return tied > taken; }  ///< whether their order decides what is selected
};

/// The language-specific neurons of one language, and the rule they were selected by.
struct Selection : SelectionRule {
  std::vector<SelectedNeuron> neurons;  ///< AP as float32 descending, then as `ties` says
  double threshold = 0.0;               ///< AP of the last one selected
  CutTies cut;
  std::string rule;
  std::vector<std::string> warnings;

  /// Returns the smallest top_k by which no neuron of this AP is left out.
  std::int64_t top_k_of_all_tied() const {
    return static_cast<std::int64_t>(neurons.size()) + cut.tied - cut.taken;
  }
};

/// What a selection is made from: the scores of every neuron for one language.
struct LanguageScores {
  std::string_view language;
  std::span<const double> ap;         ///< [N]
  std::span<const float> separation;  ///< [N], or empty where it was not measured
};

/// Returns the first `top_k` neurons by AP among those with AP strictly above `ap_min`. The result is a
/// function of the arguments alone: analyze and allocate both select by it. Warns if fewer remain, and if
/// more neurons tie at the cut than are taken.
/// @throws Error(config) if ties are ordered by a separation that is not there
Selection select_neurons(const LanguageScores& scores, const ModuleTable& modules, const SelectionRule& rule);

/// Returns what ties at the cut of neurons that were selected before, best first.   @param ap [N]
CutTies ties_at_cut(std::span<const SelectedNeuron> selected, std::span<const double> ap, double ap_min);
/// Returns the sentence that says how many neurons tie, how many of them were taken and what helps; empty if
/// their order decides nothing.
std::string tie_warning(const Selection& selection);

/// Returns the paper's 1000 of 774,144 neurons scaled to this model; at least 100 but never more than 1 % of
/// the neurons, because 0.13 % of a small model is too few to count by layer.
std::int64_t default_top_k(std::int64_t num_neurons);

}  // namespace nmoe::analysis
