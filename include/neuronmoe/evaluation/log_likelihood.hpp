#pragma once
// Log-likelihoods of requests given as token ids, the way lm-evaluation-harness asks a model for them.
// `neuronmoe loglikelihood` calls it; docs/evaluation.md describes the files.
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "neuronmoe/comm/execution_context.hpp"
#include "neuronmoe/model/batch.hpp"
#include "neuronmoe/model/decoder.hpp"

namespace nmoe::evaluation {

/// One line of a requests file.
struct Request {
  std::vector<std::int32_t> ids;  ///< context and continuation, or the prefix and a text
  std::size_t num_context = 1;    ///< ids before the first that is scored, at least 1
  bool rolling = false;           ///< a text of any length, cut into windows; may be empty
  std::int64_t line = 0;          ///< of the file, 1-based

  std::int64_t num_scored() const { return static_cast<std::int64_t>(ids.size() - num_context); }
};

/// What the ids of a request may be.
struct RequestLimits {
  std::int64_t vocab_size;  ///< ids are below it
  std::int64_t max_length;  ///< most tokens that the model is given at once
};

/// Reads a requests file. Not collective; `heartbeat` beats as lines are read.
/// @throws Error(bad_data) "FILE:LINE: ..." for anything that is no request, or one that does not fit
std::vector<Request> load_requests(const std::string& path, const RequestLimits& limits,
                                   comm::Heartbeat& heartbeat);

struct LogLikelihood {
  double sum = 0.0;    ///< of the natural logarithms, added in float64 in the order of the tokens
  bool greedy = true;  ///< whether every scored token has the largest logit where it stands
  std::int64_t tokens = 0;
};

/// Scores of labels at tokens of a batch; usually Decoder::label_scores. Collective over the expert-parallel
/// group, hence called equally often on every rank.
using LabelScoreFunction =
    std::function<std::vector<model::LabelScore>(const model::Batch&, std::span<const model::LabelAt>)>;

/// Returns the answers, in the order of the requests.
/// A request whose ids are more than max_length + 1 loses the first ones. A rolling one is cut into windows
/// of max_length scored tokens; the first is preceded by the prefix, each other by the token before it, the
/// last, if it is shorter, by as many as fit (lm_eval.utils.get_rolling_token_windows with context_len 1,
/// make_disjoint_window). Requests with the same context, after that, share one pass over it.
/// Batches follow from the requests alone and batch b runs on rank b mod R, so the bits do not depend on the
/// number of ranks.   Collective; the same result on every rank.
std::vector<LogLikelihood> measure_log_likelihoods(comm::ExecutionContext& context,
                                                   std::span<const Request> requests, std::int64_t max_length,
                                                   const LabelScoreFunction& scores);

/// The same of several variants of a model, each asked once per batch; usually Decoder::label_scores_of_each.
using VariantScoreFunction = std::function<std::vector<std::vector<model::LabelScore>>(
    const model::Batch&, std::span<const model::LabelAt>)>;
/// Returns the answers of `num_variants` variants, [variant][request]; those of one have the bits that
/// measure_log_likelihoods gives for it.   Collective likewise.
std::vector<std::vector<LogLikelihood>> measure_variants(comm::ExecutionContext& context,
                                                         std::span<const Request> requests,
                                                         std::int64_t max_length, std::size_t num_variants,
                                                         const VariantScoreFunction& scores);

/// Returns one line of JSON per answer, its sum with 17 digits.
std::string answer_lines(std::span<const LogLikelihood> answers);

}  // namespace nmoe::evaluation
