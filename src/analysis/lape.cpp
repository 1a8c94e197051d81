// Language activation probability entropy: counts of fired units, entropies, and the units selected by them.
#include "neuronmoe/analysis/lape.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "neuronmoe/base/error.hpp"
#include "neuronmoe/ops/pooling.hpp"
#include "neuronmoe/tensor/device.hpp"

namespace nmoe::analysis {
namespace {

constexpr double bar_quantile = 0.95, taken_share = 0.05;  // of the public script

/// A unit of an expert has no probability over all tokens of a language.
bool is_dense_gate(const Module& module) {
  return module.projection == model::Projection::gate && module.expert < 0;
}

}  // namespace

double activation_entropy(const std::vector<double>& probability) {
  const double sum = std::accumulate(probability.begin(), probability.end(), 0.0);
  if (sum == 0.0) return std::numeric_limits<double>::quiet_NaN();
  double entropy = 0.0;
  for (const double p : probability)
    if (p > 0.0) entropy -= (p / sum) * std::log(p / sum);
  return entropy;
}

void select_by_entropy(const std::vector<std::vector<double>>& probability,
                       const std::vector<std::uint64_t>& uuids, const std::vector<double>& entropy,
                       Lape& lape) {
  lape.selected.assign(probability.size(), {});
  std::vector<double> all;
  for (const auto& language : probability) all.insert(all.end(), language.begin(), language.end());
  if (all.empty()) return;
  const auto rank =
      std::max<std::int64_t>(std::llround(bar_quantile * static_cast<double>(all.size())), 1) - 1;
  std::nth_element(all.begin(), all.begin() + rank, all.end());
  lape.bar = all[static_cast<std::size_t>(rank)];
  std::vector<std::size_t> candidates;
  for (std::size_t u = 0; u < uuids.size(); ++u)
    if (std::any_of(probability.begin(), probability.end(), [&](const auto& p) { return p[u] > lape.bar; }))
      candidates.push_back(u);
  std::stable_sort(candidates.begin(), candidates.end(),
                   [&](std::size_t a, std::size_t b) { return entropy[a] < entropy[b]; });
  const auto taken = static_cast<std::size_t>(std::llround(taken_share * static_cast<double>(uuids.size())));
  candidates.resize(std::min(candidates.size(), taken));
  lape.threshold = candidates.empty() ? 0.0 : entropy[candidates.back()];
  std::sort(candidates.begin(), candidates.end());
  for (const std::size_t u : candidates) {
    for (std::size_t g = 0; g < probability.size(); ++g)
      if (probability[g][u] > lape.bar) lape.selected[g].push_back(uuids[u]);
  }
}

ActivationCounter::ActivationCounter(const ModuleTable& modules, int num_languages, Stream& stream)
    : modules_(modules),
      num_languages_(num_languages),
      module_of_layer_(static_cast<std::size_t>(modules.num_layers())),
      begin_of_layer_(module_of_layer_.size()),
      stream_(stream),
      grouping_(stream, RowGrouping::Empty::kept) {
  for (std::size_t m = 0; m < modules.modules().size(); ++m) {
    const Module& module = modules.modules()[m];
    if (!is_dense_gate(module)) continue;
    module_of_layer_[static_cast<std::size_t>(module.layer)] = m;
    begin_of_layer_[static_cast<std::size_t>(module.layer)] = num_units_;
    num_units_ += module.width;
  }
  fired_ = Tensor({num_units_ * num_languages_}, DType::int64, stream.device());
  tokens_.assign(static_cast<std::size_t>(num_languages_) * module_of_layer_.size(), 0);
}

void ActivationCounter::add(int layer, ConstTensorView values, const std::vector<int>& language_of_row) {
  const auto at = static_cast<std::size_t>(layer);
  const std::int64_t width = modules_.modules()[module_of_layer_[at]].width;
  const auto rows = static_cast<std::int64_t>(language_of_row.size());
  NMOE_CHECK(values.num_elements() == rows * width, internal, "layer {}: {} values for {} rows of {}", layer,
             values.num_elements(), rows, width);
  grouping_.group(language_of_row, num_languages_);
  for (std::size_t g = 0; g < grouping_.sizes().size(); ++g)
    tokens_[at * static_cast<std::size_t>(num_languages_) + g] += grouping_.sizes()[g];
  const TensorView counts = fired_.view().rows(begin_of_layer_[at] * num_languages_, width * num_languages_);
  ops::count_positive(counts.reshape({num_languages_, width}), values.reshape({rows, width}),
                      grouping_.groups(), stream_);  // SiLU has the sign of its argument
}

Lape ActivationCounter::finish(comm::Communicator& comm, Stream& stream, const std::vector<int>& analysed) {
  Tensor all_fired = copied_to(Device::cpu, fired_.view(), stream_);
  std::vector<std::int64_t> all_tokens = tokens_;
  comm.all_reduce(all_fired.view(), comm::ReduceOp::sum, stream).wait();
  comm.all_reduce(TensorView(all_tokens.data(), DType::int64, {static_cast<std::int64_t>(all_tokens.size())}),
                  comm::ReduceOp::sum, stream)
      .wait();
  const auto neurons = static_cast<std::size_t>(modules_.num_neurons());
  const double none = std::numeric_limits<double>::quiet_NaN();
  Lape lape;
  lape.entropy.assign(neurons, none);
  lape.probability.assign(analysed.size(), std::vector<float>(neurons, static_cast<float>(none)));
  std::vector<std::vector<double>> probability(analysed.size());
  std::vector<double> entropy, of_unit(analysed.size());
  std::vector<std::uint64_t> uuids;
  for (const Module& module : modules_.modules()) {
    if (!is_dense_gate(module)) continue;
    const auto layer = static_cast<std::size_t>(module.layer);
    for (std::int64_t u = 0; u < module.width; ++u) {
      const auto uuid = static_cast<std::size_t>(module.offset + u);
      for (std::size_t g = 0; g < analysed.size(); ++g) {
        const auto language = static_cast<std::size_t>(analysed[g]);
        const auto fired = all_fired.data<std::int64_t>()[begin_of_layer_[layer] * num_languages_ +
                                                          analysed[g] * module.width + u];
        const auto tokens = all_tokens[layer * static_cast<std::size_t>(num_languages_) + language];
        of_unit[g] = tokens > 0 ? static_cast<double>(fired) / static_cast<double>(tokens) : 0.0;
        probability[g].push_back(of_unit[g]);
        lape.probability[g][uuid] = static_cast<float>(of_unit[g]);
      }
      uuids.push_back(uuid);
      entropy.push_back(activation_entropy(of_unit));
      lape.entropy[uuid] = entropy.back();
    }
  }
  select_by_entropy(probability, uuids, entropy, lape);
  return lape;
}

}  // namespace nmoe::analysis
