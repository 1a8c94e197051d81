// Average precision of the units of every expert, and the files that hold it.
#include "neuronmoe/analysis/specialize.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <limits>

#include "neuron_file_parts.hpp"
#include "neuronmoe/analysis/responses.hpp"

namespace nmoe::analysis {
namespace {

std::vector<WatchedSite> expert_sites(const ModuleTable& modules, const model::ModelConfig& model) {
  std::vector<WatchedSite> sites;
  for (const auto& module : modules.modules())
    sites.push_back(
        {{module.layer, module.projection, model.is_moe(module.layer) ? module.expert : -1}, module.width});
  return sites;
}

/// Samples of which the expert saw no token leave its ranking: their class is doubled, and the double is
/// absent.
SampleRoles without_empty(const SampleRoles& roles, const std::vector<std::int64_t>& num_tokens) {
  SampleRoles result;
  result.num_languages = roles.num_languages;
  result.num_classes = 2 * roles.num_classes;
  result.class_of_sample = roles.class_of_sample;
  for (std::size_t s = 0; s < num_tokens.size(); ++s)
    if (num_tokens[s] == 0)
      result.class_of_sample[s] = static_cast<std::uint16_t>(result.class_of_sample[s] + roles.num_classes);
  for (int g = 0; g < roles.num_languages; ++g) {
    for (int c = 0; c < roles.num_classes; ++c) result.roles.push_back(roles.role(g, c));
    result.roles.insert(result.roles.end(), static_cast<std::size_t>(roles.num_classes), Role::absent);
  }
  return result;
}

ExpertSummary begin_expert(const Module& module, const SampleRoles& roles,
                           const std::vector<std::int64_t>& num_tokens) {
  ExpertSummary summary;
  summary.layer = module.layer;
  summary.expert = module.expert;
  const auto languages = static_cast<std::size_t>(roles.num_languages);
  summary.high_ap.assign(languages, 0);
  summary.zero_samples.assign(languages, 0);
  for (std::size_t s = 0; s < num_tokens.size(); ++s) {
    for (std::size_t g = 0; g < languages; ++g)
      if (num_tokens[s] == 0 && roles.role(static_cast<int>(g), roles.class_of_sample[s]) == Role::positive)
        ++summary.zero_samples[g];
  }
  return summary;
}

void report_empty(const Logger& log, const ExpertStatistics& statistics) {
  for (const auto& expert : statistics.experts) {
    for (std::size_t g = 0; g < expert.zero_samples.size(); ++g)
      if (expert.zero_samples[g] > 0)
        log.info("layer {} {}: no token of {} of {} {} sentences came here", expert.layer,
                 expert_name(expert.expert), expert.zero_samples[g], statistics.neurons.n_pos[g],
                 statistics.neurons.languages[g]);
  }
}

void describe_samples(ExpertStatistics& statistics, const AnalysisConfig& config, const SampleSet& samples,
                      const std::vector<int>& analysed, const SampleRoles& roles) {
  NeuronStatistics& neurons = statistics.neurons;
  for (std::size_t g = 0; g < analysed.size(); ++g) {
    const auto at = static_cast<std::size_t>(analysed[g]);
    neurons.languages.push_back(samples.languages[at]);
    neurons.n_pos.push_back(static_cast<std::uint64_t>(roles.count(static_cast<int>(g), Role::positive)));
    neurons.n_neg.push_back(static_cast<std::uint64_t>(roles.count(static_cast<int>(g), Role::negative)));
    neurons.n_tokens.push_back(static_cast<std::uint64_t>(samples.num_tokens[at]));
    neurons.n_dropped.push_back(static_cast<std::uint64_t>(samples.num_dropped[at]));
  }
  for (const auto& sample : samples.samples)
    statistics.sample_language.push_back(samples.languages[static_cast<std::size_t>(sample.language)] +
                                         (sample.negative ? ":negative" : ""));
  statistics.ap_high = config.ap_high;
  statistics.empty_policy = config.empty;
}

}  // namespace

ExpertStatistics analyse_experts(comm::ExecutionContext& context, const AnalysisConfig& config,
                                 const model::ModelConfig& model, const SampleSet& samples,
                                 const ObserveFunction& observe) {
  const float fill = config.empty == EmptyPolicy::neg_inf ? -std::numeric_limits<float>::infinity() : 0.0F;
  const ModuleTable modules = expert_module_table(model);
  const auto analysed = analysed_languages(config.languages, samples.languages);
  const SampleRoles roles = samples.roles(analysed);

  ResponseStore store(expert_sites(modules, model), context.stream);
  run_sense_pass(context, samples, config.batch_tokens, config.skip_bos, observe, store);

  ExpertStatistics statistics;
  describe_samples(statistics, config, samples, analysed, roles);
  SiteResponses slice;
  for (std::size_t m = 0; m < modules.modules().size(); ++m) {
    const Module& module = modules.modules()[m];
    exchange_site(slice, context, store.rows(m), module.width, samples.size(), fill);
    store.release(m);
    if (module.projection == model::Projection::down) {  // the first of an expert's three modules
      statistics.experts.push_back(begin_expert(module, roles, slice.num_tokens));
      for (const std::int64_t count : slice.num_tokens)
        statistics.count_tokens.push_back(static_cast<std::uint64_t>(count));
    }
    const auto scores = score_site(
        context.world, {context.stream, config.memory_mb * 1'000'000}, slice, module.width,
        config.empty == EmptyPolicy::exclude ? without_empty(roles, slice.num_tokens) : roles, module.name);
    append_scores(statistics.neurons, scores);
    ExpertSummary& summary = statistics.experts.back();
    summary.total += module.width;
    for (std::size_t i = 0; i < scores.size(); ++i)
      if (scores[i].ap >= config.ap_high) ++summary.high_ap[i % analysed.size()];
    context.heartbeat.beat();
  }
  if (context.world.rank() != 0) return {};
  statistics.neurons.modules = modules;
  report_empty(context.log, statistics);
  return statistics;
}

void write_expert_file(const std::string& path, const ExpertStatistics& statistics) {
  const auto languages = static_cast<std::int64_t>(statistics.neurons.languages.size());
  const auto experts = static_cast<std::int64_t>(statistics.experts.size());
  std::vector<std::uint32_t> layers, ids;
  std::vector<std::uint64_t> totals, high(static_cast<std::size_t>(experts * languages)), zero(high.size());
  for (std::size_t e = 0; e < statistics.experts.size(); ++e) {
    const auto& expert = statistics.experts[e];
    layers.push_back(static_cast<std::uint32_t>(expert.layer));
    ids.push_back(static_cast<std::uint32_t>(expert.expert));
    totals.push_back(static_cast<std::uint64_t>(expert.total));
    for (std::size_t g = 0; g < expert.high_ap.size(); ++g) {
      high[g * statistics.experts.size() + e] = static_cast<std::uint64_t>(expert.high_ap[g]);
      zero[g * statistics.experts.size() + e] = static_cast<std::uint64_t>(expert.zero_samples[g]);
    }
  }
  io::write_h5_atomically(path, io::Storage::compressed, [&](io::H5File& file) {
    write_root_attributes(
        file, expert_file_format, statistics.neurons.provenance,
        "mean over the tokens of a sentence routed to an expert of its down, gate and up outputs, "
        "unweighted; average precision of that mean for one language against the others");
    file.write_attribute("/", "ap_high", statistics.ap_high);
    file.write_attribute("/", "empty", name_of(statistics.empty_policy));
    write_modules(file, statistics.neurons.modules);
    write_score_tables(file, statistics.neurons);
    file.write("/expert/layer", layers);
    file.write("/expert/id", ids);
    file.write("/expert/total", totals);
    file.write("/expert/high_ap", high, {languages, experts});
    file.write("/expert/zero_samples", zero, {languages, experts});
    file.write_strings("/sample_language", statistics.sample_language);
    file.write("/count_tokens", statistics.count_tokens,
               {experts, static_cast<std::int64_t>(statistics.sample_language.size())});
  });
}

std::string expert_csv(const ExpertStatistics& statistics, std::size_t language) {
  std::string text = "layer,expert,total,high_ap,ratio_percent\n";
  for (const auto& expert : statistics.experts)
    fmt::format_to(std::back_inserter(text), "{},{},{},{},{:.2f}\n", expert.layer, expert_name(expert.expert),
                   expert.total, expert.high_ap[language],
                   100.0 * static_cast<double>(expert.high_ap[language]) / static_cast<double>(expert.total));
  return text;
}

}  // namespace nmoe::analysis
