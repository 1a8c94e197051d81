#pragma once
// The measurement behind `neuronmoe analyze`: sense sentences through the model, pooled responses of the
// seven projections, average precision per neuron and language, selection, layer similarity (METHOD 1
// and 4.1).
#include <concepts>
#include <cstdint>
#include <functional>
#include <string>
#include <type_traits>
#include <vector>

#include "neuronmoe/analysis/neuron_file.hpp"
#include "neuronmoe/analysis/sense.hpp"
#include "neuronmoe/base/fields.hpp"

namespace nmoe::analysis {

/// Response of an expert to a sample of which it saw no token: 0, the sample does not count, or −∞.
enum class EmptyPolicy { zero, exclude, neg_inf };
constexpr auto enum_names(EmptyPolicy) {
  return std::to_array<EnumName<EmptyPolicy>>(
      {{EmptyPolicy::zero, "zero"}, {EmptyPolicy::exclude, "exclude"}, {EmptyPolicy::neg_inf, "neg_inf"}});
}

/// Options of `analyze` and `specialize`.
struct AnalysisConfig {
  std::string tokenizer, languages, csv, responses, response_modules;
  EmptyPolicy empty = EmptyPolicy::zero;
  std::vector<std::string> sense, similarity_text;
  std::int64_t top_k = 0, max_tokens = 256, sentences = 500, batch_tokens = 4096, seed = 1234;
  std::int64_t memory_mb = 4096, similarity_tokens = 100000, every = 0;
  double ap_min = 0.5, ap_high = 0.9;
  bool skip_bos = false, redraw = false;
  Ties ties = Ties::random;
  Negatives negatives = Negatives::pool;
  DType dtype = DType::float32;  ///< of the analysis forward, whatever training uses (METHOD 1.4)
};
template <class Config, class F>
requires std::same_as<std::remove_const_t<Config>, AnalysisConfig>
void for_each_field(Config& c, F&& f) {
  constexpr double many = 9e15;
  f("analysis.tokenizer", c.tokenizer,
    FieldInfo{.help = "tokenizer file or directory (empty: the model's own)"});
  f("analysis.sense", c.sense,
    FieldInfo{.help = "LANG:PATH.json, one per language, or PATH.jsonl "
                      "with \"text\" and \"lang\" on each line; repeatable"});
  f("analysis.languages", c.languages,
    FieldInfo{.help =
                  "languages to analyze, comma-separated (empty: all); the others still serve as negatives"});
  f("analysis.top_k", c.top_k,
    FieldInfo{
        .help = "language-specific neurons per language; 0 scales the paper's 1000 of 774,144 to this model, "
                "but takes at least min(100, 1 %)",
        .min = 0,
        .max = many});
  f("analysis.ap_min", c.ap_min,
    FieldInfo{.help = "only neurons with a larger AP are selected", .min = 0, .max = 1});
  f("analysis.ties", c.ties,
    FieldInfo{.help = "which of the neurons with the AP of the cut are selected: drawn at random by "
                      "analysis.seed, the first rows, or those with the largest separation"});
  f("analysis.dtype", c.dtype,
    FieldInfo{.help = "type of weights and activations in `analyze`", .choices = weight_dtypes});
  f("analysis.skip_bos", c.skip_bos, FieldInfo{.help = "leave the BOS token out of the pooled mean"});
  f("analysis.max_tokens", c.max_tokens,
    FieldInfo{.help = "longer sentences are dropped", .unit = "tokens, BOS included", .min = 1, .max = many});
  f("analysis.sentences", c.sentences,
    FieldInfo{.help = "sentences per language at most", .min = 1, .max = many});
  f("analysis.seed", c.seed,
    FieldInfo{.help = "seed of the draws of sentences and of ties", .min = 0, .max = many});
  f("analysis.batch_tokens", c.batch_tokens,
    FieldInfo{.help = "tokens per forward pass", .unit = "tokens", .min = 1, .max = 1e9});
  f("analysis.memory_mb", c.memory_mb,
    FieldInfo{.help = "analyze: responses a rank may hold; more neurons are measured in several passes over "
                      "the sentences. On a GPU also the memory for scoring them there",
              .unit = "MB",
              .min = 1,
              .max = 1e9,
              .layout = true});
  f("analysis.similarity_text", c.similarity_text,
    FieldInfo{.help = "LANG:PATH.jsonl with \"text\": layer similarity from "
                      "these documents instead of the sense sentences; repeatable"});
  f("analysis.similarity_tokens", c.similarity_tokens,
    FieldInfo{.help = "tokens per language of analysis.similarity_text",
              .unit = "tokens",
              .min = 1,
              .max = 16777216});
  f("sense.negatives", c.negatives,
    FieldInfo{.help = "negative sentences of a language: pool: the positives of the others; file: the "
                      "negative list of its own LANG:PATH.json, and one language alone is enough"});
  f("sense.redraw_per_language", c.redraw,
    FieldInfo{.help =
                  "draw positives and negatives anew for every analyzed language, as the released code does, "
                  "instead of one set for all"});
  f("analysis.csv", c.csv,
    FieldInfo{.help = "analyze: also write expertise.csv and the files that go with it into this directory"});
  f("analysis.responses", c.responses,
    FieldInfo{.help = "analyze: also write the responses of analysis.response_modules, a number for every "
                      "neuron and sentence, into this HDF5 file"});
  f("analysis.response_modules", c.response_modules,
    FieldInfo{.help = "analyze: modules of analysis.responses, comma-separated; an entry is a part of names "
                      "between dots: layers.3, mlp.down_proj, layers.3.mlp, or model for all of them"});
  f("analysis.ap_high", c.ap_high,
    FieldInfo{.help = "specialize: AP from which a neuron counts as specialized", .min = 0, .max = 1});
  f("expert_ap.every", c.every,
    FieldInfo{
        .help = "train: measure the experts on the analysis.sense sentences every so many steps; 0 = never",
        .unit = "steps",
        .min = 0,
        .max = many});
  f("expert_ap.empty", c.empty,
    FieldInfo{.help = "specialize: response to a sentence of which an expert saw no token"});
}

/// Returns the indices into `pools` of the languages to analyze. @throws Error(config) naming the ones there
/// are
std::vector<int> analysed_languages(const std::string& wanted, const std::vector<std::string>& pools);

struct SiteResponses;
/// Receives the responses of one module after another, in the order of the ModuleTable, as exchange_site
/// deals them to the ranks. Collective.
using ResponseSink = std::function<void(const Module& module, const SiteResponses& mine)>;

/// What analyse_neurons does besides its own work.
struct AnalysisExtras {
  const SampleSet* documents = nullptr;  ///< of layer similarity
  ResponseSink responses = {};           ///< is handed every module, if there is one
};

/// Returns the neuron table of a model, of a mixture with gate, up and down of every expert, on rank 0, and
/// an empty one elsewhere; the same bits for any rank count and any analysis.memory_mb as long as the forward
/// of a batch is. Where the responses of all neurons do not fit, the sentences are run again for the next
/// slab of modules: no file is spilt, and the same forward gives the same bits. Layer similarity and LAPE
/// come from the first pass; with `documents` similarity comes from a pass over those. Fills everything but
/// `provenance`. Collective over the world.
/// @throws Error(bad_data) for a NaN response, naming module and unit
NeuronStatistics analyse_neurons(comm::ExecutionContext& context, const AnalysisConfig& config,
                                 const model::ModelConfig& model, const SampleSet& samples,
                                 const ObserveFunction& observe, const AnalysisExtras& extras = {});

}  // namespace nmoe::analysis
