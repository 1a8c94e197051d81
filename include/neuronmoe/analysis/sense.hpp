#pragma once
// Sense samples (METHOD 1.1, 1.2): the sentences that analyze and specialize run through the model, tokenised
// alone and put into batches that do not depend on the number of ranks.
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "neuronmoe/comm/execution_context.hpp"
#include "neuronmoe/data/tokenizer.hpp"
#include "neuronmoe/model/batch.hpp"
#include "neuronmoe/model/config.hpp"
#include "neuronmoe/model/observer.hpp"

namespace nmoe::analysis {

/// The sentences of one language. Each is positive for its language and negative for all others.
struct SensePool {
  std::string language, path, sha256;
  std::vector<std::string> sentences;
};

/// Reads `LANG:PATH.json` files. Only the positives of a file are used. More than `max_sentences` of them are
/// thinned by a draw without replacement, a function of (seed, language) alone; file order is kept.
/// @throws Error(config) for a malformed or repeated entry, Error(bad_data) naming the file and what is wrong
std::vector<SensePool> load_sense_pools(std::span<const std::string> specs, std::int64_t max_sentences,
                                        std::uint64_t seed);

/// Tokenised sentences of all pools, pool by pool in file order.
struct SampleSet {
  struct Sample {
    int language;  ///< pool
    std::vector<std::int32_t> ids;
  };
  std::vector<std::string> languages;  ///< of the pools
  std::vector<Sample> samples;
  std::vector<std::int64_t> num_kept, num_dropped, num_tokens;  ///< per pool; tokens of the kept ones
  bool has_bos = false;

  std::int64_t size() const { return static_cast<std::int64_t>(samples.size()); }
  std::vector<int> language_of_sample() const;
};

/// The token put before each sentence; −1 for none. The tokenizer's own rule wins; a Llama model whose
/// tokenizer has no such rule takes bos_token_id of its config; Qwen takes none (METHOD 1.2).
std::int32_t sense_bos(const data::Tokenizer& tokenizer, const model::ModelConfig& config);
/// Tokenises each sentence alone. Sentences with more than `max_tokens` tokens, BOS included, or with none
/// besides BOS are dropped and counted. @throws Error(bad_data) if a language keeps no sentence
SampleSet tokenize_pools(std::span<const SensePool> pools, const data::Tokenizer& tokenizer,
                         std::int32_t bos_id, std::int64_t max_tokens);

/// Batches of sample indices, longest samples first (ties by index), each of at most `batch_tokens` tokens (a
/// longer sample stands alone). A function of the samples alone, so GEMM shapes do not depend on the rank
/// count.
std::vector<std::vector<std::int64_t>> form_batches(const SampleSet& samples, std::int64_t batch_tokens);

/// Forward of one batch under an observer; usually Decoder::observe. Collective over the expert-parallel
/// group.
using ObserveFunction = std::function<void(const model::Batch&, model::ActivationObserver&)>;

/// An observer that is told which samples are under way. In a round every rank runs at most one batch;
/// row_sample counts the samples of the whole round, so rows may come from other ranks (expert parallelism).
class RoundObserver : public model::ActivationObserver {
 public:
  /// @param samples global index of each sample of the round. Rows with row_sample = samples.size() are not
  /// to be pooled (BOS under analysis.skip_bos).
  virtual void begin_round(std::span<const std::int64_t> samples) = 0;
  virtual void end_round() = 0;
};

/// Runs all batches, batch b on rank b mod R; every rank calls `observe` the same number of times, with an
/// empty batch when it has none. Shows progress on rank 0. Collective.
void run_sense_pass(comm::ExecutionContext& context, const SampleSet& samples, std::int64_t batch_tokens,
                    bool skip_bos, const ObserveFunction& observe, RoundObserver& observer);

}  // namespace nmoe::analysis
