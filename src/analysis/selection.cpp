// Tables of modules, and the neurons of a language with the highest average precision.
#include "neuronmoe/analysis/selection.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "neuronmoe/base/error.hpp"
#include "neuronmoe/base/hash.hpp"
#include "neuronmoe/base/philox.hpp"

namespace nmoe::analysis {
namespace {

Module make_module(int layer, const char* name, model::Projection projection, std::int64_t width) {
  return {fmt::format("model.layers.{}.{}:0", layer, name), layer, projection, -1, width, 0};
}

/// Down, gate and up of one expert.
void add_expert(std::vector<Module>& modules, const model::ModelConfig& config, int layer, int expert) {
  using model::Projection;
  const auto add = [&](const char* name, Projection projection, std::int64_t width) {
    modules.push_back({fmt::format("model.layers.{}.mlp.{}.{}:0", layer, expert_name(expert), name), layer,
                       projection, expert, width, 0});
  };
  add("down_proj", Projection::down, config.hidden_size);
  add("gate_proj", Projection::gate, config.intermediate_size);
  add("up_proj", Projection::up, config.intermediate_size);
}

struct Candidate {
  float ap, separation;
  std::uint64_t draw;  // separation and draw are 0 where the rule does not ask for them
  std::int64_t uuid;
};

bool ranked_before(const Candidate& a, const Candidate& b) {
  if (a.ap != b.ap) return a.ap > b.ap;
  if (a.separation != b.separation) return a.separation > b.separation;
  return a.draw != b.draw ? a.draw < b.draw : a.uuid < b.uuid;
}

/// Returns the neurons above ap_min that may be among the first top_k: none with a smaller AP than the cut.
std::vector<Candidate> candidates_of(const LanguageScores& scores, const SelectionRule& rule) {
  NMOE_CHECK(rule.ties != Ties::separation || scores.separation.size() == scores.ap.size(), config,
             "{}: no separation was stored for it, so that ties cannot be ordered by it; make neurons.h5 "
             "anew with analyze, or use ties = random",
             scores.language);
  std::vector<float> above;
  for (const double ap : scores.ap)
    if (ap > rule.ap_min) above.push_back(static_cast<float>(ap));
  float cut = -1.0F;
  if (std::ssize(above) > rule.top_k) {
    const auto last = above.begin() + (rule.top_k - 1);
    std::nth_element(above.begin(), last, above.end(), std::greater<>());
    cut = *last;
  }
  const Philox random(rule.seed, RandomPurpose::ties, fnv1a(scores.language));
  std::vector<Candidate> candidates;
  for (std::size_t n = 0; n < scores.ap.size(); ++n) {
    const auto ap = static_cast<float>(scores.ap[n]);
    if (scores.ap[n] <= rule.ap_min || ap < cut) continue;
    Candidate candidate{ap, 0.0F, 0, static_cast<std::int64_t>(n)};
    if (rule.ties == Ties::random) candidate.draw = random.bits(n);
    if (rule.ties == Ties::separation)
      candidate.separation =
          std::isnan(scores.separation[n]) ? -std::numeric_limits<float>::infinity() : scores.separation[n];
    candidates.push_back(candidate);
  }
  return candidates;
}

std::string describe(const SelectionRule& rule) {
  std::string ties = "uuid";
  if (rule.ties == Ties::random) ties = fmt::format("a draw with seed {}", rule.seed);
  if (rule.ties == Ties::separation) ties = "separation (descending)";
  return fmt::format("first {} neurons by AP (float32, descending), then {}, among AP > {}", rule.top_k, ties,
                     rule.ap_min);
}

}  // namespace

ModuleTable::ModuleTable(std::vector<Module> modules) : modules_(std::move(modules)) {
  for (auto& module : modules_) {
    NMOE_CHECK(module.width > 0 && module.layer >= 0, internal, "module {} has width {} and layer {}",
               module.name, module.width, module.layer);
    module.offset = num_neurons_;
    num_neurons_ += module.width;
    num_layers_ = std::max(num_layers_, module.layer + 1);
  }
}

ModuleTable::ModuleTable(const model::ModelConfig& config) {
  using model::Projection;
  constexpr std::pair<const char*, Projection> ffn[] = {{"mlp.down_proj", Projection::down},
                                                        {"mlp.gate_proj", Projection::gate},
                                                        {"mlp.up_proj", Projection::up}};
  constexpr std::pair<const char*, Projection> attention[] = {{"self_attn.k_proj", Projection::k},
                                                              {"self_attn.o_proj", Projection::o},
                                                              {"self_attn.q_proj", Projection::q},
                                                              {"self_attn.v_proj", Projection::v}};
  std::vector<Module> modules;
  for (int l = 0; l < config.num_layers; ++l) {
    const auto add = [&](const auto& projections) {
      for (const auto& [name, projection] : projections)
        modules.push_back(make_module(l, name, projection, model::projection_width(config, projection)));
    };
    const int experts = config.is_moe(l) ? config.num_experts[static_cast<std::size_t>(l)] : 0;
    for (int e = 0; e < experts; ++e) add_expert(modules, config, l, e);
    if (experts == 0) add(ffn);
    add(attention);
  }
  std::sort(modules.begin(), modules.end(), [](const Module& a, const Module& b) { return a.name < b.name; });
  *this = ModuleTable(std::move(modules));
}

std::size_t ModuleTable::module_of(std::int64_t uuid) const {
  NMOE_CHECK(uuid >= 0 && uuid < num_neurons_, internal, "neuron {} of {}", uuid, num_neurons_);
  const auto after =
      std::upper_bound(modules_.begin(), modules_.end(), uuid,
                       [](std::int64_t id, const Module& module) { return id < module.offset; });
  return static_cast<std::size_t>(after - modules_.begin()) - 1;
}

std::string expert_name(int expert) {
  return expert == 0 ? "base" : fmt::format("exp_{}", expert - 1);
}

ModuleTable expert_module_table(const model::ModelConfig& config) {
  std::vector<Module> modules;
  for (int l = 0; l < config.num_layers; ++l) {
    for (int e = 0; e < config.num_experts[static_cast<std::size_t>(l)]; ++e)
      add_expert(modules, config, l, e);
  }
  return ModuleTable(std::move(modules));
}

Selection select_neurons(const LanguageScores& scores, const ModuleTable& modules,
                         const SelectionRule& rule) {
  NMOE_CHECK(static_cast<std::int64_t>(scores.ap.size()) == modules.num_neurons(), internal,
             "{} AP values for {} neurons", scores.ap.size(), modules.num_neurons());
  NMOE_CHECK(rule.top_k > 0, config, "analysis.top_k = {} must be positive", rule.top_k);
  auto candidates = candidates_of(scores, rule);
  const auto kept = std::min(rule.top_k, std::ssize(candidates));
  std::partial_sort(candidates.begin(), candidates.begin() + kept, candidates.end(), ranked_before);
  candidates.resize(static_cast<std::size_t>(kept));

  Selection selection;
  static_cast<SelectionRule&>(selection) = rule;
  selection.rule = describe(rule);
  for (const Candidate& candidate : candidates) {
    const std::size_t m = modules.module_of(candidate.uuid);
    selection.neurons.push_back({static_cast<std::uint64_t>(candidate.uuid), static_cast<std::uint32_t>(m),
                                 static_cast<std::uint32_t>(candidate.uuid - modules.modules()[m].offset),
                                 scores.ap[static_cast<std::size_t>(candidate.uuid)]});
  }
  if (kept > 0) selection.threshold = selection.neurons.back().ap;
  selection.cut = ties_at_cut(selection.neurons, scores.ap, rule.ap_min);
  if (kept < rule.top_k)
    selection.warnings.push_back(
        fmt::format("only {} of the {} wanted neurons have AP > {}", kept, rule.top_k, rule.ap_min));
  if (auto warning = tie_warning(selection); !warning.empty())
    selection.warnings.push_back(std::move(warning));
  return selection;
}

CutTies ties_at_cut(std::span<const SelectedNeuron> selected, std::span<const double> ap, double ap_min) {
  if (selected.empty()) return {};
  const auto cut = static_cast<float>(selected.back().ap);
  CutTies ties{static_cast<double>(cut), 0, 0};
  for (const double value : ap) ties.tied += value > ap_min && static_cast<float>(value) == cut ? 1 : 0;
  for (const SelectedNeuron& neuron : selected) ties.taken += static_cast<float>(neuron.ap) == cut ? 1 : 0;
  return ties;
}

std::string tie_warning(const Selection& selection) {
  if (!selection.cut.decide()) return {};
  std::string how;
  switch (selection.ties) {
    case Ties::random:
      how = fmt::format("drawn at random (seed {})", selection.seed);
      break;
    case Ties::uuid:
      how = "in the order of rows, which favors the first layers (analysis.ties = random does not)";
      break;
    case Ties::separation:
      how = "by their separation";
      break;
  }
  return fmt::format(
      "{} neurons have the AP of the cut, {:.6f}, and {} of them were taken, {}; top_k = {} takes them all, "
      "and negatives in the same script would tell them apart",
      selection.cut.tied, selection.cut.ap, selection.cut.taken, how, selection.top_k_of_all_tied());
}

std::int64_t default_top_k(std::int64_t num_neurons) {
  const auto scaled =
      static_cast<std::int64_t>(std::llround(1000.0 * static_cast<double>(num_neurons) / 774144.0));
  const std::int64_t one_percent = (num_neurons + 99) / 100;
  return std::max<std::int64_t>({1, scaled, std::min<std::int64_t>(100, one_percent)});
}

}  // namespace nmoe::analysis
