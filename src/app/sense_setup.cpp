// Sense sentences and documents read and tokenized for a model.
#include "sense_setup.hpp"

#include <algorithm>

#include "neuronmoe/app/schema.hpp"
#include "neuronmoe/app/version.hpp"
#include "neuronmoe/base/error.hpp"
#include "neuronmoe/base/sha256.hpp"
#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/io/same_file.hpp"
#include "neuronmoe/model/hf_model.hpp"

namespace nmoe::app {
namespace {

/// Files that entries LANG:PATH or PATH name.
std::vector<std::string> files_of(const AppConfig& config) {
  std::vector<std::string> files;
  for (const auto* entries : {&config.analysis.sense, &config.analysis.similarity_text})
    for (const std::string& entry : *entries) files.push_back(entry.substr(entry.find(':') + 1));
  return files;
}

}  // namespace

SenseSetup prepare_sense(comm::ExecutionContext& context, const AppConfig& config,
                         const model::ModelConfig& architecture) {
  const auto& options = config.analysis;
  NMOE_CHECK(!options.sense.empty(), config,
             "--analysis.sense is not set: LANG:PATH.json, once per language");
  NMOE_CHECK(!options.redraw || options.negatives == analysis::Negatives::pool, config,
             "sense.redraw_per_language draws negatives from the other languages; with sense.negatives = {} "
             "there is nothing to draw",
             name_of(options.negatives));
  const auto tokenizer = load_tokenizer_for(context, options.tokenizer, config.run.model);
  io::require_same_files(context.world, files_of(config));
  SenseSetup setup;
  std::string corpus, shared;
  comm::agree(context.world, [&] {
    auto pools = analysis::read_sense_pools(options.sense, options.negatives);
    std::vector<std::string> languages;
    for (const auto& pool : pools) languages.push_back(pool.language);
    const auto seed = static_cast<std::uint64_t>(options.seed);
    if (options.redraw)
      analysis::redraw_pools(pools, analysis::analysed_languages(options.languages, languages),
                             options.sentences, seed);
    else
      analysis::draw_shared(pools, options.sentences, seed);
    for (const auto& pool : pools) {
      corpus += pool.language + " " + pool.sha256 + "\n";
      if (pool.num_unused_negatives > 0)
        context.log.info(
            "{}: its negative list is not used ({} sentences): negatives are the positives of the other "
            "languages (sense.negatives = file uses it)",
            pool.path, pool.num_unused_negatives);
    }
    shared = analysis::describe_shared_sentences(pools);
    setup.samples = analysis::tokenize_pools(pools, *tokenizer, options.max_tokens);
    require_embedding(*tokenizer, setup.samples.largest_id(), architecture);
    if (options.similarity_text.empty()) return;
    setup.documents =
        analysis::tokenize_documents(options.similarity_text, *tokenizer, options.similarity_tokens,
                                     std::min<std::int64_t>(10000, architecture.max_position_embeddings));
    require_embedding(*tokenizer, setup.documents.largest_id(), architecture);
  });
  if (!shared.empty() && context.world.rank() == 0) context.log.warn("{}", shared);
  const data::BosRule& bos = tokenizer->bos_rule();
  context.log.info("BOS: {}", bos.to_string());
  if (!bos.stated && architecture.bos_token_id >= 0)
    context.log.warn(
        "{}: bos_token_id = {} of config.json is not put before sentences; if the base was trained with "
        "it, say so in a tokenizer_config.json beside the model: add_bos_token and bos_token",
        tokenizer->name(), architecture.bos_token_id);
  for (std::size_t i = 0; i < setup.samples.languages.size(); ++i) {
    context.log.info("{}: {} sentences, {} tokens; {} dropped", setup.samples.languages[i],
                     setup.samples.num_kept[i], setup.samples.num_tokens[i], setup.samples.num_dropped[i]);
    if (options.negatives == analysis::Negatives::file)
      context.log.info("{}: {} negatives of its file; {} dropped", setup.samples.languages[i],
                       setup.samples.num_negatives[i], setup.samples.num_dropped_negatives[i]);
  }
  setup.provenance.model_sha256 =
      on_rank_zero(context, [&] { return model::model_directory_hash(config.run.model); });
  setup.provenance.tokenizer_sha256 = tokenizer->sha256();
  setup.provenance.corpus_sha256 = sha256_text(corpus);
  setup.provenance.config = config_to_ini(config, false);
  setup.provenance.version = version();
  setup.provenance.seed = options.seed;
  setup.provenance.bos = bos.to_string();
  setup.provenance.own_negatives = options.negatives == analysis::Negatives::file;
  return setup;
}

}  // namespace nmoe::app
