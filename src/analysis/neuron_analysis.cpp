#include "neuronmoe/analysis/neuron_analysis.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "neuronmoe/analysis/allocation.hpp"
#include "neuronmoe/analysis/layer_similarity.hpp"
#include "neuronmoe/analysis/responses.hpp"

namespace nmoe::analysis {
namespace {

std::vector<WatchedSite> dense_sites(const ModuleTable& modules) {
  std::vector<WatchedSite> sites;
  for (const auto& module : modules.modules())
    sites.push_back({{module.layer, module.projection, -1}, module.width});
  return sites;
}

// Pools the projections and, from the same pass, collects the MLP inputs for layer similarity.
class AnalysisObserver : public RoundObserver {
 public:
  AnalysisObserver(ResponseStore& store, LayerSimilarity& similarity,
                   const std::vector<int>& language_of_sample)
      : store_(store), similarity_(similarity), language_of_sample_(language_of_sample) {}
  bool wants(const model::ActivationSite& site) const override {
    return site.projection == model::Projection::mlp_input || store_.wants(site);
  }
  void observe(const model::ActivationSite& site, ConstTensorView values,
               ConstTensorView row_sample) override {
    if (site.projection != model::Projection::mlp_input) {
      store_.observe(site, values, row_sample);
      return;
    }
    std::vector<int> language(static_cast<std::size_t>(row_sample.num_elements()), -1);
    const auto* sample = row_sample.data<std::int32_t>();
    for (std::size_t t = 0; t < language.size(); ++t) {
      const auto at = static_cast<std::size_t>(sample[t]);
      if (at < round_.size()) language[t] = language_of_sample_[static_cast<std::size_t>(round_[at])];
    }
    similarity_.add(site.layer, values, language);
  }
  void begin_round(std::span<const std::int64_t> samples) override {
    round_.assign(samples.begin(), samples.end());
    store_.begin_round(samples);
  }
  void end_round() override { store_.end_round(); }

 private:
  ResponseStore& store_;
  LayerSimilarity& similarity_;
  const std::vector<int>& language_of_sample_;
  std::vector<std::int64_t> round_;
};

void fill_counts(NeuronStatistics& statistics, const SampleSet& samples, const std::vector<int>& analysed) {
  for (const int p : analysed) {
    const auto at = static_cast<std::size_t>(p);
    statistics.languages.push_back(samples.languages[at]);
    statistics.n_pos.push_back(static_cast<std::uint64_t>(samples.num_kept[at]));
    statistics.n_neg.push_back(static_cast<std::uint64_t>(samples.size() - samples.num_kept[at]));
    statistics.n_tokens.push_back(static_cast<std::uint64_t>(samples.num_tokens[at]));
    statistics.n_dropped.push_back(static_cast<std::uint64_t>(samples.num_dropped[at]));
  }
}

void select_all(comm::ExecutionContext& context, const AnalysisConfig& config, NeuronStatistics& statistics) {
  const std::int64_t neurons = statistics.modules.num_neurons();
  const std::int64_t top_k = config.top_k > 0 ? config.top_k : default_top_k(neurons);
  std::string scaled;
  if (config.top_k == 0) {
    scaled = fmt::format("; k = {} from {} neurons: 1000 of 774,144 scaled, at least min(100, 1 %)", top_k,
                         neurons);
    context.log.info(
        "selecting {} neurons per language of {} (analysis.top_k = 0: the paper's 1000 of 774,144 scaled, "
        "at least min(100, 1 %))",
        top_k, neurons);
  }
  for (std::size_t g = 0; g < statistics.languages.size(); ++g) {
    Selection selection = select_neurons(statistics.ap[g], statistics.modules, top_k, config.ap_min);
    selection.rule += scaled;
    context.log.info("{}: {} neurons selected, AP of the last {:.4f}", statistics.languages[g],
                     selection.neurons.size(), selection.threshold);
    for (const auto& warning : selection.warnings)
      context.log.warn("{}: {}", statistics.languages[g], warning);
    statistics.selected.push_back(std::move(selection));
  }
}

}  // namespace

std::vector<int> analysed_languages(const std::string& wanted, const std::vector<std::string>& pools) {
  std::vector<int> result;
  auto names = split_list(wanted);
  if (names.empty()) names = pools;
  for (const auto& name : names) {
    const auto at = std::find(pools.begin(), pools.end(), name);
    NMOE_CHECK(at != pools.end(), config,
               "analysis.languages names '{}', but there are sense files for {} only", name,
               fmt::join(pools, ", "));
    const int index = static_cast<int>(at - pools.begin());
    NMOE_CHECK(std::find(result.begin(), result.end(), index) == result.end(), config,
               "analysis.languages names '{}' twice", name);
    result.push_back(index);
  }
  return result;
}

NeuronStatistics analyse_neurons(comm::ExecutionContext& context, const AnalysisConfig& config,
                                 const model::ModelConfig& model, const SampleSet& samples,
                                 const ObserveFunction& observe) {
  NMOE_CHECK(model.num_moe_layers() == 0, config,
             "analyze measures dense models, this one has {} layers with experts; use specialize",
             model.num_moe_layers());
  const ModuleTable modules(model);
  const auto language_of_sample = samples.language_of_sample();
  const auto analysed = analysed_languages(config.languages, samples.languages);
  const auto roles =
      shared_pool_roles(language_of_sample, static_cast<int>(samples.languages.size()), analysed);
  context.log.info("{} neurons in {} modules, {} samples in {} languages", modules.num_neurons(),
                   modules.modules().size(), samples.size(), samples.languages.size());

  ResponseStore store(dense_sites(modules));
  LayerSimilarity similarity(static_cast<int>(samples.languages.size()), model.num_layers, model.hidden_size);
  AnalysisObserver observer(store, similarity, language_of_sample);
  run_sense_pass(context, samples, config.batch_tokens, config.skip_bos, observe, observer);

  NeuronStatistics statistics;
  fill_counts(statistics, samples, analysed);
  Progress progress(context.log, "average precision", static_cast<std::uint64_t>(modules.num_neurons()),
                    "neurons");
  for (std::size_t m = 0; m < modules.modules().size(); ++m) {
    const Module& module = modules.modules()[m];
    const auto slice =
        exchange_site(context.world, context.stream, store.rows(m), module.width, samples.size(), 0.0F);
    store.release(m);
    for (std::size_t s = 0; s < slice.num_tokens.size(); ++s)
      NMOE_CHECK(slice.num_tokens[s] > 0, internal, "{}: sample {} was never observed", module.name, s);
    append_scores(statistics,
                  score_site(context.world, context.stream, slice, module.width, roles, module.name));
    context.heartbeat.beat();
    const auto done = module.offset + module.width;
    progress.update(static_cast<std::uint64_t>(done), static_cast<double>(done));
  }
  auto similarities = similarity.finish(context.world, context.stream);
  if (context.world.rank() != 0) return {};
  statistics.modules = modules;
  statistics.similarity_pairs = LayerSimilarity::pairs(samples.languages);
  statistics.similarity = std::move(similarities);
  select_all(context, config, statistics);
  return statistics;
}

}  // namespace nmoe::analysis
