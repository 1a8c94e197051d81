// neuronmoe evaluate: perplexity per language and the continuation task, for the dense model or a checkpoint.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>

#include "commands.hpp"
#include "intervention_setup.hpp"
#include "model_setup.hpp"
#include "neuronmoe/app/schema.hpp"
#include "neuronmoe/app/version.hpp"
#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/evaluation/continuation.hpp"
#include "neuronmoe/evaluation/eval_file.hpp"
#include "neuronmoe/evaluation/perplexity.hpp"
#include "neuronmoe/io/same_file.hpp"
#include "trial_read.hpp"

namespace nmoe::app {
namespace {

struct LanguagePath {
  std::string language, path;
};

/// "LANG:PATH"; each language once.
std::vector<LanguagePath> split_language_paths(const std::vector<std::string>& texts, const char* key) {
  std::vector<LanguagePath> result;
  for (const auto& text : texts) {
    const auto colon = text.find(':');
    NMOE_CHECK(colon != std::string::npos && colon > 0 && colon + 1 < text.size(), config,
               "{} = '{}' is not LANG:PATH", key, text);
    for (const auto& earlier : result) {
      NMOE_CHECK(earlier.language != text.substr(0, colon), config, "{}: language '{}' is given twice", key,
                 earlier.language);
    }
    result.push_back({text.substr(0, colon), text.substr(colon + 1)});
  }
  return result;
}

class Evaluation {
 public:
  Evaluation(comm::ExecutionContext& context, const AppConfig& config, const LoadedModel& loaded,
             const InterventionSets& sets)
      : context_(context),
        config_(config),
        options_(config.evaluation),
        decoder_(*loaded.decoder),
        interventions_(sets.for_decoder(decoder_)) {
    results_.model = config.run.model;
    results_.checkpoint = loaded.checkpoint;
    results_.version = version();
    results_.config = recorded_options(config, "evaluation");
    if (sets.sets.empty()) return;
    for (const auto& option : intervention_options(config)) results_.config.push_back(option);
    evaluation::InterventionMatrix& matrix = results_.interventions.emplace();
    matrix.replace = name_of(config.intervention.replace);
    matrix.neurons_path = config.intervention.neurons;
    matrix.neurons_sha256 = sets.neurons_sha256;
    matrix.seed = options_.seed;
    for (std::size_t i = 0; i < sets.sets.size(); ++i)
      matrix.rows.push_back(
          {sets.sets[i].language, sets.sets[i].control, sets.sets[i].uuids, interventions_[i].first_layer()});
  }

  /// Runs every task on the inputs that the config has for it.
  void run_tasks() {
    for (const auto& [name, run] : tasks) {
      evaluation::TaskResult result{name, {}};
      (this->*run)(result);
      results_.tasks.push_back(std::move(result));
    }
  }

  const evaluation::EvalResults& results() const { return results_; }
  const std::string& lines() const { return lines_; }  ///< of documents and items

 private:
  void measure_texts(evaluation::TaskResult& result) {
    const auto inputs = split_language_paths(options_.texts, "evaluation.text");
    if (inputs.empty()) return;
    const std::int64_t max_length =
        length_or_positions("evaluation.block", options_.block, decoder_.config());
    const KnownTokenizers tokenizers = tokenizers_of(context_, config_.run.model);
    for (const auto& [language, path] : inputs) {
      evaluation::HeldOutText text;
      io::require_same_file(context_.world, path);
      verify_h5_inputs(context_, {path});
      bool older = false;
      comm::agree(context_.world, [&, &language = language, &path = path] {
        const data::TokenFile file(path, io::SealCheck::done);
        require_fitting_tokens(file, tokenizers, decoder_.config());
        text =
            evaluation::held_out_text(file, data::read_text_sizes(path, file.num_docs(), io::SealCheck::done),
                                      language, options_.max_tokens);
        require_prefix(file);
        older = !text.sizes || !file.info().bos_id;
      });
      if (older && context_.world.rank() == 0)
        context_.log.warn(
            "{}: an older program made it, without the sizes of its texts and the BOS of its tokenizer: no "
            "perplexity per word or byte, and documents begin behind EOS; tokenize again for both",
            path);
      evaluation::RouterStatistics routers(decoder_.config());
      const bool mixture = decoder_.config().num_moe_layers() > 0;
      const auto variants =
          evaluation::measure_variants(context_, text.documents, max_length, 1 + interventions_.size(),
                                       label_scores(mixture ? &routers : nullptr));
      const auto& answers = variants.front();
      const auto perplexity = evaluation::perplexity_of(text, answers);
      require_finite(perplexity.ppl(), language, path);
      result.languages[language] = perplexity.scores();
      lines_ += evaluation::document_lines(language, text, answers);
      if (results_.interventions) add_interventions(language, path, text, variants);
      if (mixture) results_.router[language] = routers.finish(context_.world, context_.stream);
      context_.log.info("{}: perplexity {:.2f} over {} tokens of {} documents, each behind token {}",
                        language, perplexity.ppl(), perplexity.tokens, perplexity.documents,
                        text.documents.front().ids.front());
    }
  }

  void add_interventions(const std::string& language, const std::string& path,
                         const evaluation::HeldOutText& text,
                         const std::vector<std::vector<evaluation::LogLikelihood>>& variants) {
    evaluation::InterventionMatrix& matrix = *results_.interventions;
    evaluation::add_column(matrix, language, variants);
    for (std::size_t r = 0; r < matrix.rows.size(); ++r) {
      const evaluation::InterventionRow& row = matrix.rows[r];
      const evaluation::PairedChange& change = matrix.columns.back().changes[r];
      require_finite(change.nll, language, path);
      lines_ += evaluation::intervention_lines(row, language, text.numbers, variants[r + 1]);
      const std::string which =
          row.control == 0 ? row.language : fmt::format("random set {} for {}", row.control, row.language);
      context_.log.info(
          "{}: {} neurons of {} replaced, layer {} the lowest: {:+.4f} +- {:.4f} nats per token", language,
          row.uuids.size(), which, row.first_layer, change.nll, change.stderr_);
    }
  }

  void measure_continuations(evaluation::TaskResult& task) {
    const auto inputs = split_language_paths(options_.continuations, "evaluation.continuation");
    if (inputs.empty()) return;
    const auto tokenizer = load_tokenizer_for(context_, "", config_.run.model);
    for (const auto& [language, path] : inputs) {
      std::vector<evaluation::TokenizedItem> items;
      io::require_same_file(context_.world, path);
      comm::agree(context_.world, [&, &path = path] {
        items =
            evaluation::tokenize_items(evaluation::load_continuation_items(path, options_.limit), *tokenizer);
        require_embedding(*tokenizer, std::max(evaluation::largest_id(items), tokenizer->eos_id()),
                          decoder_.config());
      });
      const auto result = evaluation::measure_continuation(
          context_, items, tokenizer->eos_id(), decoder_.config().max_position_embeddings, log_probs());
      require_finite(result.acc, language, path);
      task.languages[language] = result.scores();
      lines_ += evaluation::item_lines(language, result.items);
      context_.log.info("{}: continuation {:.3f} +- {:.3f} of {} items", language, result.acc, result.stderr_,
                        result.n);
    }
  }

  /// No comparison with NaN is true: without this a broken model would get the share of items whose answer is
  /// the first choice.
  void require_finite(double score, const std::string& language, const std::string& path) const {
    NMOE_CHECK(std::isfinite(score), bad_data,
               "{}{}{}: its log probabilities of {} ({}) are not finite: a weight is NaN or infinite, or "
               "activations overflow in {}",
               config_.run.model, results_.checkpoint.empty() ? "" : " with the experts of ",
               results_.checkpoint, path, language, name_of(config_.train.dtype));
  }

  /// The tokenizer may have more tokens than the model, and its BOS stands in no document.
  void require_prefix(const data::TokenFile& file) const {
    NMOE_CHECK(evaluation::prefix_of(file.info()) < decoder_.config().vocab_size, bad_data,
               "{}: documents begin behind the BOS {}, but the model has {} embeddings; use the tokenizer of "
               "this model",
               file.path(), evaluation::prefix_of(file.info()), decoder_.config().vocab_size);
  }

  evaluation::VariantScoreFunction label_scores(model::ActivationObserver* observer) {
    return [this, observer](const model::Batch& batch, std::span<const model::LabelAt> labels) {
      return decoder_.label_scores_of_each(batch, labels, interventions_, observer,
                                           [this] { context_.heartbeat.beat(); });
    };
  }

  evaluation::LogProbFunction log_probs() {
    return [this](const model::Batch& batch, model::ActivationObserver* observer) {
      return decoder_.token_log_probs(batch, observer);
    };
  }

  /// A task under its name in eval.json.
  struct Task {
    const char* name;
    void (Evaluation::*run)(evaluation::TaskResult&);
  };
  static constexpr Task tasks[] = {{"perplexity", &Evaluation::measure_texts},
                                   {"continuation", &Evaluation::measure_continuations}};

  comm::ExecutionContext& context_;
  const AppConfig& config_;
  const EvaluationConfig& options_;
  model::Decoder& decoder_;
  std::vector<model::Intervention> interventions_;
  evaluation::EvalResults results_;
  std::string lines_;
};

}  // namespace

int run_evaluate(comm::ExecutionContext& context, const AppConfig& config) {
  const bool intervenes = wants_intervention(config);
  NMOE_CHECK(!intervenes || !config.evaluation.texts.empty(), config,
             "intervention.neurons = {} is measured on held-out text: give --evaluation.text LANG:tokens.h5",
             config.intervention.neurons);
  const InterventionSets sets =
      intervenes ? load_interventions(context, config, config.intervention.controls) : InterventionSets{};
  const LoadedModel loaded = load_model_or_checkpoint(context, config, config.train.dtype);
  std::optional<Evaluation> evaluation;
  comm::agree(context.world, [&] { evaluation.emplace(context, config, loaded, sets); });
  evaluation->run_tasks();
  comm::agree(context.world, [&] {
    if (context.world.rank() == 0)
      evaluation::write_eval_files(config.run.output, evaluation->results(), evaluation->lines());
  });
  context.log.info("{}: written", config.run.output);
  return 0;
}

}  // namespace nmoe::app
