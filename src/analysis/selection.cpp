// Tables of modules, and the neurons of a language with the highest average precision.
#include "neuronmoe/analysis/selection.hpp"

#include <algorithm>
#include <cmath>

#include "neuronmoe/base/error.hpp"

namespace nmoe::analysis {
namespace {

Module make_module(int layer, const char* name, model::Projection projection, std::int64_t width) {
  return {fmt::format("model.layers.{}.{}:0", layer, name), layer, projection, -1, width, 0};
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
  const std::int64_t q = std::int64_t{config.num_attention_heads} * config.head_dim;
  const std::int64_t kv = std::int64_t{config.num_key_value_heads} * config.head_dim;
  std::vector<Module> modules;
  for (int l = 0; l < config.num_layers; ++l) {
    modules.push_back(make_module(l, "mlp.down_proj", Projection::down, config.hidden_size));
    modules.push_back(make_module(l, "mlp.gate_proj", Projection::gate, config.intermediate_size));
    modules.push_back(make_module(l, "mlp.up_proj", Projection::up, config.intermediate_size));
    modules.push_back(make_module(l, "self_attn.k_proj", Projection::k, kv));
    modules.push_back(make_module(l, "self_attn.o_proj", Projection::o, config.hidden_size));
    modules.push_back(make_module(l, "self_attn.q_proj", Projection::q, q));
    modules.push_back(make_module(l, "self_attn.v_proj", Projection::v, kv));
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
  using model::Projection;
  std::vector<Module> modules;
  for (int l = 0; l < config.num_layers; ++l) {
    for (int e = 0; e < config.num_experts[static_cast<std::size_t>(l)]; ++e) {
      const auto add = [&](const char* name, Projection projection, std::int64_t width) {
        modules.push_back({fmt::format("model.layers.{}.mlp.{}.{}:0", l, expert_name(e), name), l, projection,
                           e, width, 0});
      };
      add("down_proj", Projection::down, config.hidden_size);
      add("gate_proj", Projection::gate, config.intermediate_size);
      add("up_proj", Projection::up, config.intermediate_size);
    }
  }
  return ModuleTable(std::move(modules));
}

Selection select_neurons(std::span<const double> ap, const ModuleTable& modules, std::int64_t top_k,
                         double ap_min) {
  NMOE_CHECK(static_cast<std::int64_t>(ap.size()) == modules.num_neurons(), internal,
             "{} AP values for {} neurons", ap.size(), modules.num_neurons());
  NMOE_CHECK(top_k > 0, config, "analysis.top_k = {} must be positive", top_k);
  std::vector<std::int64_t> above;
  for (std::size_t n = 0; n < ap.size(); ++n)
    if (ap[n] > ap_min) above.push_back(static_cast<std::int64_t>(n));
  const auto ranked_before = [&](std::int64_t a, std::int64_t b) {
    const auto x = static_cast<float>(ap[static_cast<std::size_t>(a)]);
    const auto y = static_cast<float>(ap[static_cast<std::size_t>(b)]);
    return x != y ? x > y : a < b;
  };
  const auto kept =
      static_cast<std::ptrdiff_t>(std::min<std::int64_t>(top_k, static_cast<std::int64_t>(above.size())));
  std::partial_sort(above.begin(), above.begin() + kept, above.end(), ranked_before);
  above.resize(static_cast<std::size_t>(kept));

  Selection selection;
  selection.top_k = top_k;
  selection.ap_min = ap_min;
  selection.rule =
      fmt::format("first {} neurons by AP (float32, descending), then uuid, among AP > {}", top_k, ap_min);
  for (const std::int64_t uuid : above) {
    const std::size_t m = modules.module_of(uuid);
    selection.neurons.push_back({static_cast<std::uint64_t>(uuid), static_cast<std::uint32_t>(m),
                                 static_cast<std::uint32_t>(uuid - modules.modules()[m].offset),
                                 ap[static_cast<std::size_t>(uuid)]});
  }
  if (!above.empty()) selection.threshold = selection.neurons.back().ap;
  if (kept < top_k)
    selection.warnings.push_back(
        fmt::format("only {} of the {} wanted neurons have AP > {}", kept, top_k, ap_min));
  if (!above.empty() && selection.threshold >= 0.999)
    selection.warnings.push_back(fmt::format(
        "the AP of the last selected neuron is {:.6f}: the metric is saturated, and ties by uuid favour "
        "the early layers; select fewer neurons (analysis.top_k)",
        selection.threshold));
  return selection;
}

std::int64_t default_top_k(std::int64_t num_neurons) {
  const auto scaled =
      static_cast<std::int64_t>(std::llround(1000.0 * static_cast<double>(num_neurons) / 774144.0));
  const std::int64_t one_percent = (num_neurons + 99) / 100;
  return std::max<std::int64_t>({1, scaled, std::min<std::int64_t>(100, one_percent)});
}

}  // namespace nmoe::analysis
