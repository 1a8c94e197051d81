// The passes of `analyze`: responses of a slab of modules at a time, their scores, and the selection.
#include "neuronmoe/analysis/neuron_analysis.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <span>

#include "neuronmoe/analysis/allocation.hpp"
#include "neuronmoe/analysis/layer_similarity.hpp"
#include "neuronmoe/analysis/responses.hpp"

namespace nmoe::analysis {
namespace {

using Modules = std::span<const Module>;

std::vector<WatchedSite> sites_of(Modules modules) {
  std::vector<WatchedSite> sites;
  for (const auto& module : modules)
    sites.push_back({{module.layer, module.projection, module.expert}, module.width});
  return sites;
}

/// Runs of modules whose responses fit into a rank's memory together, each at least one module long.
std::vector<Modules> slabs_of(const ModuleTable& table, std::int64_t num_samples, int world_size,
                              std::int64_t memory_bytes) {
  const Modules all(table.modules());
  std::vector<Modules> slabs;
  std::size_t begin = 0;
  std::int64_t bytes = 0;
  for (std::size_t m = 0; m < all.size(); ++m) {
    const std::int64_t more = all[m].width * ((num_samples + world_size - 1) / world_size) *
                              static_cast<std::int64_t>(sizeof(float));
    if (m > begin && bytes + more > memory_bytes) {
      slabs.push_back(all.subspan(begin, m - begin));
      begin = m;
      bytes = 0;
    }
    bytes += more;
  }
  slabs.push_back(all.subspan(begin));
  return slabs;
}

/// The language of each row, −1 for rows that are not pooled.
class RowLanguages {
 public:
  explicit RowLanguages(std::vector<int> language_of_sample)
      : language_of_sample_(std::move(language_of_sample)) {}
  void begin_round(std::span<const std::int64_t> samples) { round_.assign(samples.begin(), samples.end()); }
  std::vector<int> of(ConstTensorView row_sample) const {
    std::vector<int> language(static_cast<std::size_t>(row_sample.num_elements()), -1);
    const auto* sample = row_sample.data<std::int32_t>();
    for (std::size_t t = 0; t < language.size(); ++t) {
      const auto at = static_cast<std::size_t>(sample[t]);
      if (at < round_.size()) language[t] = language_of_sample_[static_cast<std::size_t>(round_[at])];
    }
    return language;
  }

 private:
  std::vector<int> language_of_sample_;
  std::vector<std::int64_t> round_;
};

/// Pools the projections of a slab and, if asked to, collects from the same pass the MLP inputs for layer
/// similarity and the signs of the gates for LAPE.
class AnalysisObserver : public RoundObserver {
 public:
  AnalysisObserver(ResponseStore* store, LayerSimilarity* similarity, ActivationCounter* activations,
                   const SampleSet& samples)
      : store_(store),
        similarity_(similarity),
        activations_(activations),
        languages_(samples.language_of_sample()) {}
  bool wants(const model::ActivationSite& site) const override {
    return wants_similarity(site) || wants_activations(site) || (store_ != nullptr && store_->wants(site));
  }
  bool takes_device_values() const override { return true; }
  void observe(const model::ActivationSite& site, ConstTensorView values,
               ConstTensorView row_sample) override {
    if (wants_similarity(site)) similarity_->add(site.layer, values, languages_.of(row_sample));
    if (wants_activations(site)) activations_->add(site.layer, values, languages_.of(row_sample));
    if (store_ != nullptr && store_->wants(site)) store_->observe(site, values, row_sample);
  }
  void begin_round(std::span<const std::int64_t> samples) override {
    languages_.begin_round(samples);
    if (store_ != nullptr) store_->begin_round(samples);
  }
  void end_round() override {
    if (store_ != nullptr) store_->end_round();
  }

 private:
  bool wants_similarity(const model::ActivationSite& site) const {
    return similarity_ != nullptr && site.projection == model::Projection::mlp_input;
  }
  bool wants_activations(const model::ActivationSite& site) const {
    return activations_ != nullptr && site.projection == model::Projection::gate && site.expert < 0;
  }
  ResponseStore* store_;
  LayerSimilarity* similarity_;
  ActivationCounter* activations_;
  RowLanguages languages_;
};

void fill_counts(NeuronStatistics& statistics, const SampleSet& samples, const std::vector<int>& analysed,
                 const SampleRoles& roles) {
  for (std::size_t g = 0; g < analysed.size(); ++g) {
    const auto at = static_cast<std::size_t>(analysed[g]);
    const auto count = [&](Role role) {
      return static_cast<std::uint64_t>(roles.count(static_cast<int>(g), role));
    };
    NMOE_CHECK(
        count(Role::positive) > 0 && count(Role::negative) > 0, bad_data,
        "{}: {} positive and {} negative sentences are left after dropping the long ones; both are needed",
        samples.languages[at], count(Role::positive), count(Role::negative));
    statistics.languages.push_back(samples.languages[at]);
    statistics.n_pos.push_back(count(Role::positive));
    statistics.n_neg.push_back(count(Role::negative));
    statistics.n_tokens.push_back(static_cast<std::uint64_t>(samples.num_tokens[at]));
    statistics.n_dropped.push_back(static_cast<std::uint64_t>(samples.num_dropped[at]));
  }
}

/// Exchanges and scores the responses of slabs, module by module.
class SlabScorer {
 public:
  /// @param roles, statistics kept by reference
  SlabScorer(comm::ExecutionContext& context, std::int64_t memory_bytes, const ModuleTable& modules,
             const SampleRoles& roles, NeuronStatistics& statistics)
      : context_(context),
        place_{context.stream, memory_bytes},
        roles_(roles),
        statistics_(statistics),
        progress_(context.log, "average precision", static_cast<std::uint64_t>(modules.num_neurons()),
                  "neurons") {}

  /// Appends the scores of a slab on rank 0, hands its responses on and frees them. Collective.
  void score(Modules slab, ResponseStore& store, const ResponseSink& responses) {
    for (std::size_t m = 0; m < slab.size(); ++m) {
      exchange_site(slice_, context_, store.rows(m), slab[m].width, roles_.num_samples(), 0.0F);
      store.release(m);
      for (std::size_t s = 0; s < slice_.num_tokens.size(); ++s)
        NMOE_CHECK(slice_.num_tokens[s] > 0 || slab[m].expert >= 0, internal,
                   "{}: sample {} was never observed", slab[m].name, s);
      append_scores(statistics_,
                    score_site(context_.world, place_, slice_, slab[m].width, roles_, slab[m].name));
      if (responses) responses(slab[m], slice_);
      context_.heartbeat.beat();
      const auto done = slab[m].offset + slab[m].width;
      progress_.update(static_cast<std::uint64_t>(done), static_cast<double>(done));
    }
  }

 private:
  comm::ExecutionContext& context_;
  ScoringPlace place_;
  const SampleRoles& roles_;
  NeuronStatistics& statistics_;
  Progress progress_;
  SiteResponses slice_;  // its memory is used again
};

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
    Selection selection =
        select_neurons(scores_of(statistics, g), statistics.modules,
                       {top_k, config.ap_min, config.ties, static_cast<std::uint64_t>(config.seed)});
    selection.rule += scaled;
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
                                 const ObserveFunction& observe, const AnalysisExtras& extras) {
  const ModuleTable modules(model);
  const auto analysed = analysed_languages(config.languages, samples.languages);
  const SampleRoles roles = samples.roles(analysed);
  NeuronStatistics statistics;
  fill_counts(statistics, samples, analysed, roles);
  const auto slabs = slabs_of(modules, samples.size(), context.world.size(), config.memory_mb * 1'000'000);
  context.log.info("{} neurons in {} modules, {} samples in {} languages, {} pass{} over them",
                   modules.num_neurons(), modules.modules().size(), samples.size(), samples.languages.size(),
                   slabs.size(), slabs.size() == 1 ? "" : "es");

  const SampleSet* const documents = extras.documents;
  const SampleSet& of_similarity = documents != nullptr ? *documents : samples;
  LayerSimilarity similarity(static_cast<int>(of_similarity.languages.size()), model.num_layers,
                             model.hidden_size, context.stream);
  ActivationCounter activations(modules, static_cast<int>(samples.languages.size()), context.stream);
  if (documents != nullptr) {
    AnalysisObserver observer(nullptr, &similarity, nullptr, *documents);
    run_sense_pass(context, *documents, config.batch_tokens, config.skip_bos, observe, observer);
  }
  SlabScorer scorer(context, config.memory_mb * 1'000'000, modules, roles, statistics);
  for (std::size_t i = 0; i < slabs.size(); ++i) {
    ResponseStore store(sites_of(slabs[i]), context.stream,
                        (samples.size() + context.world.size() - 1) / context.world.size());
    AnalysisObserver observer(&store, i == 0 && documents == nullptr ? &similarity : nullptr,
                              i == 0 ? &activations : nullptr, samples);
    run_sense_pass(context, samples, config.batch_tokens, config.skip_bos, observe, observer);
    scorer.score(slabs[i], store, extras.responses);
  }
  auto similarities = similarity.finish(context.world, context.stream);
  statistics.lape = activations.finish(context.world, context.stream, analysed);
  if (context.world.rank() != 0) return {};
  statistics.modules = modules;
  statistics.similarity_pairs = LayerSimilarity::pairs(of_similarity.languages);
  statistics.similarity = std::move(similarities);
  select_all(context, config, statistics);
  return statistics;
}

}  // namespace nmoe::analysis
