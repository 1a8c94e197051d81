#pragma once
// Sense samples (METHOD 1.1, 1.2): the sentences that analyze and specialize run through the model, tokenized
// alone and put into batches that do not depend on the number of ranks.
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "neuronmoe/analysis/average_precision.hpp"
#include "neuronmoe/base/enum_names.hpp"
#include "neuronmoe/comm/execution_context.hpp"
#include "neuronmoe/data/tokenizer.hpp"
#include "neuronmoe/model/batch.hpp"
#include "neuronmoe/model/observer.hpp"

namespace nmoe::analysis {

/// Where the negatives of a language come from (METHOD 1.7b): the positives of all others, or the list that
/// stands in its own file.
enum class Negatives { pool, file };
constexpr auto enum_names(Negatives) {
  return std::to_array<EnumName<Negatives>>({{Negatives::pool, "pool"}, {Negatives::file, "file"}});
}

/// The sentences of one language. Each is positive for its language and, by Negatives::pool, negative for all
/// others.
struct SensePool {
  std::string language, path, sha256;
  std::vector<std::string> sentences;
  std::vector<std::string> negatives = {};  ///< by Negatives::file those of its file, else empty
  std::int64_t num_unused_negatives = 0;    ///< length of a list that is not used
  /// Where each sentence stands in its file, from 0: in the list, or its line; empty: as they are here.
  std::vector<std::int64_t> positions = {};
  std::vector<std::vector<std::uint8_t>> drawn_for = {};  ///< [sentences][pools] after redraw_pools, or empty

  std::int64_t position_of(std::size_t sentence) const {
    return positions.empty() ? static_cast<std::int64_t>(sentence) : positions[sentence];
  }
};

/// Reads sense files (METHOD 1.1) and JSONL. `LANG:PATH.json` is an object with sentences.positive = [text]
/// and, needed by Negatives::file, sentences.negative = [text]. `LANG:PATH.jsonl` has "text" on each line,
/// and "lang", if it is there, must be LANG. `PATH.jsonl` takes the language of each line from its "lang";
/// one file may hold several, in order of appearance. A line's "id", if any, must be unique in its file.
/// @throws Error(config) for a malformed or repeated entry, Error(bad_data) naming the file, the line or
/// entry and what is wrong: a language with no or one sentence, a repeated id, labels that do not match
std::vector<SensePool> read_sense_pools(std::span<const std::string> specs,
                                        Negatives negatives = Negatives::pool);
/// Thins every pool to `max_sentences` by a draw without replacement, a function of (seed, language) alone;
/// file order is kept. One set for all languages: each sentence runs once (METHOD 1.1, our default).
void draw_shared(std::vector<SensePool>& pools, std::int64_t max_sentences, std::uint64_t seed);
/// Draws as the released code does: for every language of `analysed` its positives and, from each other pool,
/// its negatives anew, each draw a function of (seed, analyzed language, language). Keeps what anybody drew.
void redraw_pools(std::vector<SensePool>& pools, std::span<const int> analysed, std::int64_t max_sentences,
                  std::uint64_t seed);

/// Returns a warning that counts the sentences which stand in more than one pool, and are thus positive and
/// negative at once, and quotes the first; "" if there is none.
std::string describe_shared_sentences(std::span<const SensePool> pools);

/// Tokenized sentences of all pools, pool by pool in file order; a pool's own negatives stand behind its
/// positives.
struct SampleSet {
  struct Sample {
    int language;  ///< pool
    std::vector<std::int32_t> ids;
    std::vector<std::uint8_t> drawn_for = {};  ///< [pools] after redraw_pools, else empty: for all
    bool negative = false;                     ///< of the pool's own negatives, in whatever language
    std::int64_t position = 0;                 ///< in its file, as in SensePool
  };
  std::vector<std::string> languages, paths;  ///< of the pools
  std::vector<Sample> samples;
  /// Per pool, of its positives; tokens of the kept ones.
  std::vector<std::int64_t> num_kept, num_dropped, num_tokens;
  std::vector<std::int64_t> num_negatives, num_dropped_negatives;  ///< per pool, of its own negatives
  bool has_bos = false;

  std::int64_t size() const { return static_cast<std::int64_t>(samples.size()); }
  std::int32_t largest_id() const;  ///< that occurs, −1 if there is no sample
  /// Returns the pool of each sample, −1 for one of a pool's own negatives. [S]
  std::vector<int> language_of_sample() const;
  /// Returns what each sample is to the languages `analysed` (pool numbers).
  SampleRoles roles(std::span<const int> analysed) const;
};

/// Tokenizes each sentence alone, with a BOS if the tokenizer's rule has one. Sentences with more than
/// `max_tokens` tokens, BOS included, or with none besides BOS are dropped and counted.
/// @throws Error(bad_data) if a language keeps no sentence
SampleSet tokenize_pools(std::span<const SensePool> pools, const data::Tokenizer& tokenizer,
                         std::int64_t max_tokens);

/// Tokenizes documents for layer similarity (METHOD 4.1): per language the first `num_tokens` tokens of its
/// texts, in file order, each text run alone and cut at `max_length`; texts beyond 32,000 tokens are skipped.
/// @param specs LANG:PATH.jsonl with "text"   @throws Error(config|bad_data) naming file and line
SampleSet tokenize_documents(std::span<const std::string> specs, const data::Tokenizer& tokenizer,
                             std::int64_t num_tokens, std::int64_t max_length);

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
