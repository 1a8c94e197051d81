#pragma once
// From counts to experts per layer (METHOD 3 and 4.2): pure arithmetic. The files around it are in
// allocate.hpp. `neuronmoe allocate` calls it on rank 0; nothing here is collective.
#include <concepts>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "neuronmoe/analysis/selection.hpp"
#include "neuronmoe/base/enum_names.hpp"
#include "neuronmoe/base/fields.hpp"

namespace nmoe::analysis {

/// trunc reproduces the paper's tables (METHOD 3.2); the others are what its formula could also mean.
enum class Rounding { trunc, half_even, half_up, ceil };
constexpr auto enum_names(Rounding) {
  return std::to_array<EnumName<Rounding>>({{Rounding::trunc, "trunc"},
                                            {Rounding::half_even, "half_even"},
                                            {Rounding::half_up, "half_up"},
                                            {Rounding::ceil, "ceil"}});
}
enum class MinOver { nonzero, all };
constexpr auto enum_names(MinOver) {
  return std::to_array<EnumName<MinOver>>({{MinOver::nonzero, "nonzero"}, {MinOver::all, "all"}});
}
/// `unit`: a layer's neurons are distinct unit indices, whatever the projection (METHOD 2); `module_unit`:
/// pairs.
enum class NeuronKey { unit, module_unit };
constexpr auto enum_names(NeuronKey) {
  return std::to_array<EnumName<NeuronKey>>(
      {{NeuronKey::unit, "unit"}, {NeuronKey::module_unit, "module_unit"}});
}
/// What experts per layer follow from: distinct neurons over all languages (`union_size`) or those of the
/// source plus the mean of the targets, layer similarity, one number for all layers, a list as given.
enum class AllocationMode { union_size, sum_mean, similarity, uniform, list };
constexpr auto enum_names(AllocationMode) {
  return std::to_array<EnumName<AllocationMode>>({{AllocationMode::union_size, "union"},
                                                  {AllocationMode::sum_mean, "sum_mean"},
                                                  {AllocationMode::similarity, "similarity"},
                                                  {AllocationMode::uniform, "uniform"},
                                                  {AllocationMode::list, "list"}});
}

/// Options of `allocate`.
struct AllocationConfig {
  std::string neurons, counts, columns, languages, old_languages, list, overlap, sweep, add_to;
  AllocationMode mode = AllocationMode::union_size;
  Rounding rounding = Rounding::trunc;
  MinOver min_over = MinOver::nonzero;
  NeuronKey key = NeuronKey::unit;
  std::int64_t top_k = 0;
  std::optional<Ties> ties;
  int e_min = 1, e_max = 6, experts = 3, similarity_n = 0;
  bool explain = false;
};
template <class Config, class F>
requires std::same_as<std::remove_const_t<Config>, AllocationConfig>
void for_each_field(Config& c, F&& f) {
  f("allocation.neurons", c.neurons, FieldInfo{.help = "neurons.h5 with the selected neurons"});
  f("allocation.counts", c.counts,
    FieldInfo{.help = "CSV with neuron counts per layer, instead of neurons.h5"});
  f("allocation.columns", c.columns, FieldInfo{.help = "columns of the counts CSV, comma-separated"});
  f("allocation.mode", c.mode, FieldInfo{.help = "what the size of a layer is computed from"});
  f("allocation.languages", c.languages,
    FieldInfo{.help = "languages, comma-separated; the first is the source"});
  f("allocation.top_k", c.top_k,
    FieldInfo{.help = "select this many neurons per language again; 0: those that analyze selected",
              .min = 0,
              .max = 9e15});
  f("allocation.ties", c.ties,
    FieldInfo{.help = "select again, with ties at the cut in this order (analysis.ties)", .unset = "stored"});
  f("allocation.old_languages", c.old_languages,
    FieldInfo{.help = "mode similarity: the old languages among them (empty: the first)"});
  f("allocation.e_min", c.e_min,
    FieldInfo{.help = "fewest experts of a layer, base included", .min = 1, .max = 1024});
  f("allocation.e_max", c.e_max,
    FieldInfo{.help = "most experts of a layer, base included", .min = 1, .max = 1024});
  f("allocation.rounding", c.rounding, FieldInfo{.help = "how a fraction becomes a count"});
  f("allocation.min_over", c.min_over, FieldInfo{.help = "layers the minimum is taken over"});
  f("neurons.key", c.key, FieldInfo{.help = "by what two neurons of a layer count as the same"});
  f("allocation.experts", c.experts,
    FieldInfo{
        .help = "mode uniform: experts of every layer, base included; other modes are compared with that",
        .min = 1,
        .max = 1024});
  f("allocation.overlap", c.overlap,
    FieldInfo{.help = "LAYER:N[,LAYER:N]: subtract N neurons of a layer that several columns of the counts "
                      "CSV contain"});
  f("allocation.explain", c.explain,
    FieldInfo{
        .help =
            "show the arithmetic of every layer and how many neurons more or fewer would change its count"});
  f("allocation.sweep", c.sweep,
    FieldInfo{.help = "e_max=4,6;e_min=1,2;threshold=0.5,0.8;top_k=500,1000: instead of experts.cfg write a "
                      "CSV with a row per combination"});
  f("allocation.add_to", c.add_to,
    FieldInfo{.help =
                  "checkpoint, run directory or experts.cfg of a mixture: the new experts of each layer are "
                  "added to those it has (train.init_from extends it)"});
  f("allocation.list", c.list, FieldInfo{.help = "mode list: experts per layer, comma-separated"});
  f("allocation.similarity_n", c.similarity_n,
    FieldInfo{.help =
                  "mode similarity: total number of experts to share out before rounding up; 0 chooses the "
                  "smallest that gives 3 experts per layer on average",
              .min = 0,
              .max = 1000000});
}

/// Experts per layer and why.
struct Allocation {
  std::vector<int> num_experts;            ///< [L], base included
  std::vector<std::string> reasons;        ///< lines for the top of experts.cfg
  std::vector<std::string> warnings = {};  ///< lines that stand below them
  int total() const;
};

struct CountRule {
  int e_min = 1, e_max = 6;
  Rounding rounding = Rounding::trunc;
  MinOver min_over = MinOver::nonzero;
};

/// Minimum and maximum of S as the rule takes them. @throws as allocate_by_count
struct CountRange {
  double min = 0.0, max = 0.0;
};
CountRange count_range(std::span<const double> sizes, const CountRule& rule);
/// Returns x of one layer before rounding: ((S − min)/(max − min)) · (E_max − E_min); 0 for S = 0 or max =
/// min.
double scaled_count(double size, const CountRange& range, const CountRule& rule);
/// Returns E of one layer.
int experts_for(double size, const CountRange& range, const CountRule& rule);

/// Allocates by METHOD 3.1 in its executed form: E_l = clamp(E_min + round(((S_l − min)/(max − min)) · (E_max
/// − E_min))), in double, in this order; S_l = 0 gives E_min.   @param sizes [L] S_l
/// @throws Error(bad_data) if every size is 0 or one is negative or not finite
Allocation allocate_by_count(std::span<const double> sizes, const CountRule& rule);

/// Allocates by METHOD 4.2: E_l = ceil(N · (1/Sim_l) / Σ_j 1/Sim_j). N = 0 takes the smallest N with ΣE >=
/// 3L.
/// @throws Error(bad_data) naming the first layer whose similarity is zero, negative or not finite
Allocation allocate_by_similarity(std::span<const double> similarity, int n);

/// Allocates the same count everywhere.
Allocation allocate_uniform(int num_layers, int experts);
/// Parses "6,2,1" and allocates as given. @throws Error(config) for anything but positive integers
Allocation allocate_list(std::string_view list);

/// Returns S_l of METHOD 3.1: distinct neurons of each layer over the union of several languages' selections.
/// @return [L]   @param selections one per language
std::vector<double> union_sizes(std::span<const Selection* const> selections, const ModuleTable& modules,
                                NeuronKey key);
/// Returns, by METHOD 3.3, the size of the source plus the mean of the sizes of the targets, no union.
std::vector<double> sum_mean_sizes(std::span<const std::vector<double>> sizes_source_first);

/// Returns Sim_l by METHOD 4.1: ½·(mean over new–new pairs + mean over new–old pairs); only the new–old mean
/// for one new language.
/// @param similarity [pairs, L]   @param pairs languages of each pair   @throws Error(bad_data) if a pair is
/// missing
std::vector<double> group_similarity(std::span<const double> similarity,
                                     std::span<const std::pair<std::string, std::string>> pairs,
                                     int num_layers, std::span<const std::string> old_languages,
                                     std::span<const std::string> new_languages);

/// Splits "a,b" into {a, b}; blanks around entries are dropped. Empty text gives no entries.
std::vector<std::string> split_list(std::string_view text);

}  // namespace nmoe::analysis
