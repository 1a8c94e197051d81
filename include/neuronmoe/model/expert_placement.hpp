#pragma once
// Which ranks of an expert-parallel group hold which experts: pure arithmetic, no communication (DESIGN 2,
// "mapping"). Used by the decoder and its dispatcher, by train and by `neuronmoe plan`.
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "neuronmoe/base/enum_names.hpp"

namespace nmoe::model {

/// Where new experts live: each on one position of the expert-parallel group, on every rank (sharded by ZeRO
/// like any other weight, never dispatched to), or the latter in layers where every token visits every expert
/// anyway.
enum class ExpertHome { owned, replicated, automatic };
constexpr auto enum_names(ExpertHome) {
  return std::to_array<EnumName<ExpertHome>>({{ExpertHome::automatic, "auto"},
                                              {ExpertHome::owned, "owned"},
                                              {ExpertHome::replicated, "replicated"}});
}

/// Tokens that each expert was given, [layer][expert], base included.
using ExpertTokens = std::vector<std::vector<std::int64_t>>;

/// Which position of the expert-parallel group owns each expert. Expert 0 (the frozen base) is on every rank
/// and never dispatched; owned experts of all layers are spread so that bytes and tokens, expected or
/// measured, balance over the whole model (greedy, costliest expert first, then the larger layer, ties to the
/// lower position; deterministic).
class ExpertPlacement {
 public:
  /// @param num_experts [L], base included   @param expert_parallel_size >= 1
  /// @param top_k decides the expected tokens of an expert, min(top_k, E) / E; 0 = all experts alike
  /// @param measured takes the place of expected tokens if not empty; each entry in [0, 2^48]
  ExpertPlacement(std::span<const int> num_experts, int expert_parallel_size, int top_k = 0,
                  ExpertHome home = ExpertHome::owned, const ExpertTokens& measured = {});
  /// Returns whether every rank holds the expert. Never with one rank per group, where it would say nothing.
  bool is_replicated(int layer, int expert_id) const { return at(layer, expert_id) == replicated; }
  /// Returns true for a new expert of one rank of the expert-parallel group; what is not an expert has
  /// expert_id < 1.
  bool is_owned(int layer, int expert_id) const { return expert_id >= 1 && !is_replicated(layer, expert_id); }
  bool holds(int layer, int expert_id, int expert_parallel_rank) const {
    return is_replicated(layer, expert_id) || at(layer, expert_id) == expert_parallel_rank;
  }
  /// Returns the ids (ascending) of the replicated experts of a layer.
  std::vector<int> replicated_experts(int layer) const { return experts_on(layer, replicated); }
  /// Returns whether any expert of the layer is owned, so that tokens travel.
  bool dispatches(int layer) const;
  /// Returns the expert-parallel rank that owns expert `expert_id` >= 1 of `layer`.   @pre not replicated
  int owner(int layer, int expert_id) const;
  /// Returns the ids (ascending, >= 1) of the experts of `layer` that `expert_parallel_rank` owns.
  std::vector<int> experts_on(int layer, int expert_parallel_rank) const;
  /// Returns one line per expert-parallel rank, for the log.
  std::string to_string() const;

 private:
  static constexpr int replicated = -2;
  int at(int layer, int expert_id) const;

  std::vector<std::vector<int>> owner_;  // [layer][expert_id]; −1 for the base
  int expert_parallel_size_;
};

/// How evenly a placement spreads owned experts: the most that one position of the expert-parallel group has,
/// relative to the mean (1 without owned experts or tokens).
struct PlacementBalance {
  std::int64_t most_tokens = 0;
  double tokens = 1.0, bytes = 1.0;
};
PlacementBalance balance_of(const ExpertPlacement& placement, int expert_parallel_size,
                            const ExpertTokens& tokens);

}  // namespace nmoe::model
