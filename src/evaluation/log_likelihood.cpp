// Answers to log-likelihood requests: batches over the ranks, sums of pieces, and the answers as text.
#include "neuronmoe/evaluation/log_likelihood.hpp"

#include <fmt/format.h>

#include "gather.hpp"
#include "request_batches.hpp"

namespace nmoe::evaluation {
namespace {

/// Bounds memory; a constant, so that results never depend on it.
constexpr std::int64_t batch_tokens = 2048;

constexpr std::size_t record_width = 3;  // number of the piece, sum, whether greedy

void add_records(std::vector<double>& records, const RequestBatch& batch,
                 std::span<const RequestPiece> pieces, std::span<const model::LabelScore> scores) {
  std::size_t next = 0;
  for (const ContextGroup& group : batch.groups) {
    for (const std::size_t i : group.pieces) {
      double sum = 0.0;
      bool greedy = true;
      for (std::size_t t = 0; t < pieces[i].continuation.size(); ++t, ++next) {
        sum += scores[next].log_prob;
        greedy = greedy && scores[next].greedy;
      }
      records.insert(records.end(), {static_cast<double>(i), sum, greedy ? 1.0 : 0.0});
    }
  }
}

/// A number that reads back as the same and as no integer.
std::string number_text(double value) {
  std::string text = fmt::format("{:.17g}", value);
  if (text.find_first_of(".en") == std::string::npos) text += ".0";
  return text;
}

}  // namespace

std::vector<LogLikelihood> measure_log_likelihoods(comm::ExecutionContext& context,
                                                   std::span<const Request> requests, std::int64_t max_length,
                                                   const LabelScoreFunction& scores) {
  const std::vector<RequestPiece> pieces = request_pieces(requests, max_length);
  const std::vector<RequestBatch> batches = request_batches(pieces, batch_tokens);
  std::int64_t total = 0, done = 0;
  for (const RequestBatch& batch : batches) total += batch.num_tokens;
  const auto world_size = static_cast<std::size_t>(context.world.size()),
             rank = static_cast<std::size_t>(context.world.rank());
  std::vector<double> mine;
  Progress progress(context.log, "log-likelihoods (tokens)", static_cast<std::uint64_t>(total), "tokens");
  for (std::size_t first = 0; first < batches.size(); first += world_size) {
    const std::size_t b = first + rank;
    const BuiltBatch built = b < batches.size() ? build_batch(batches[b], pieces) : BuiltBatch{};
    const auto found = scores(built.builder.batch(), built.labels);
    if (b < batches.size()) add_records(mine, batches[b], pieces, found);
    context.heartbeat.beat();
    for (std::size_t i = first; i < std::min(batches.size(), first + world_size); ++i)
      done += batches[i].num_tokens;
    progress.update(static_cast<std::uint64_t>(done), static_cast<double>(done));
  }
  const auto all = gather_records(context.world, context.stream, mine, record_width);
  std::vector<LogLikelihood> answers(requests.size());
  for (std::size_t r = 0; r < requests.size(); ++r) answers[r].tokens = requests[r].num_scored();
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    LogLikelihood& answer = answers[pieces[i].request];
    answer.sum += all[i * record_width + 1];
    answer.greedy = answer.greedy && all[i * record_width + 2] == 1.0;
  }
  return answers;
}

std::string answer_lines(std::span<const LogLikelihood> answers) {
  std::string text;
  for (const LogLikelihood& answer : answers)
    text += fmt::format("{{\"loglikelihood\": {}, \"is_greedy\": {}, \"tokens\": {}}}\n",
                        number_text(answer.sum), answer.greedy, answer.tokens);
  return text;
}

}  // namespace nmoe::evaluation
