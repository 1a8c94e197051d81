#pragma once
// The continuation task (docs/evaluation.md): which of several second halves belongs to a first half?
// `neuronmoe evaluate` calls it; tools/prepare_corpus.py makes the items.
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "neuronmoe/comm/execution_context.hpp"
#include "neuronmoe/data/tokenizer.hpp"
#include "neuronmoe/evaluation/scores.hpp"
#include "neuronmoe/model/batch.hpp"
#include "neuronmoe/model/observer.hpp"

namespace nmoe::evaluation {

/// log p(labels[t]) per token, 0 where ignored; usually Decoder::token_log_probs. Collective over the
/// expert-parallel group, hence called equally often on every rank.
using LogProbFunction = std::function<std::vector<double>(const model::Batch&, model::ActivationObserver*)>;

/// One line of the items file: {"context": text, "choices": [text, ...], "gold": index}.
struct ContinuationItem {
  std::string context;
  std::vector<std::string> choices;
  std::size_t gold = 0;
};

/// Reads the first `limit` items (0 = all).
/// @throws Error(bad_data) "FILE:LINE: ..." for anything in the file that is not such an item
std::vector<ContinuationItem> load_continuation_items(const std::string& path, std::int64_t limit);

/// An item as token ids without specials.
struct TokenizedItem {
  std::vector<std::int32_t> context;
  std::vector<std::vector<std::int32_t>> choices;
  std::size_t gold = 0;
};
/// @throws Error(bad_data) naming the item if a choice has no token
std::vector<TokenizedItem> tokenize_items(std::span<const ContinuationItem> items,
                                          const data::Tokenizer& tokenizer);

/// Returns the largest id that occurs, −1 if there is none.
std::int32_t largest_id(std::span<const TokenizedItem> items);

/// What became of an item.
struct ItemResult {
  std::size_t gold = 0, chosen = 0;
  std::vector<double> scores;  ///< of its choices
};

struct ContinuationResult {
  double acc = 0.0, stderr_ = 0.0;  ///< stderr = sqrt(acc (1 − acc) / (n − 1)); 0 for n < 2
  std::int64_t n = 0;
  std::vector<ItemResult> items = {};  ///< in their order
  Scores scores() const { return {{"acc", acc}, {"stderr", stderr_}, {"n", n}}; }
};

/// Measures the items. Score of a choice = [log p(choice | EOS, context) − log p(choice | EOS)] / tokens of
/// the choice; the largest wins, ties to the first. Contexts are shortened from the left to fit
/// `max_positions`. Item i runs on rank i mod R. `acc` is NaN if a log probability is not finite.
/// @throws Error(bad_data) if a choice alone does not fit.   Collective; the same result on every rank.
ContinuationResult measure_continuation(comm::ExecutionContext& context, std::span<const TokenizedItem> items,
                                        std::int32_t eos_id, std::int64_t max_positions,
                                        const LogProbFunction& log_probs);

}  // namespace nmoe::evaluation
