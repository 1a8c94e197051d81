// Answers to log-likelihood requests: batches over the ranks, sums of pieces, and the answers as text.
#include "neuronmoe/evaluation/log_likelihood.hpp"

#include <fmt/format.h>

#include <utility>

#include "gather.hpp"
#include "request_batches.hpp"

namespace nmoe::evaluation {
namespace {

/// Bounds memory; a constant, so that results never depend on it.
constexpr std::int64_t batch_tokens = 2048;

/// A piece's record: its number, then of every variant the sum and whether it is greedy.
std::size_t record_width(std::size_t num_variants) {
  return 1 + 2 * num_variants;
}

void add_records(std::vector<double>& records, const RequestBatch& batch,
                 std::span<const RequestPiece> pieces,
                 std::span<const std::vector<model::LabelScore>> scores) {
  std::size_t begin = 0;
  for (const ContextGroup& group : batch.groups) {
    for (const std::size_t i : group.pieces) {
      records.push_back(static_cast<double>(i));
      for (const std::vector<model::LabelScore>& variant : scores) {
        double sum = 0.0;
        bool greedy = true;
        for (std::size_t t = 0; t < pieces[i].continuation.size(); ++t) {
          sum += variant[begin + t].log_prob;
          greedy = greedy && variant[begin + t].greedy;
        }
        records.insert(records.end(), {sum, greedy ? 1.0 : 0.0});
      }
      begin += pieces[i].continuation.size();
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
  const auto of_one = [&](const model::Batch& batch, std::span<const model::LabelAt> labels) {
    return std::vector<std::vector<model::LabelScore>>{scores(batch, labels)};
  };
  return std::move(measure_variants(context, requests, max_length, 1, of_one).front());
}

std::vector<std::vector<LogLikelihood>> measure_variants(comm::ExecutionContext& context,
                                                         std::span<const Request> requests,
                                                         std::int64_t max_length, std::size_t num_variants,
                                                         const VariantScoreFunction& scores) {
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
  const std::size_t width = record_width(num_variants);
  const auto all = gather_records(context.world, context.stream, mine, width);
  std::vector<LogLikelihood> unanswered(requests.size());
  for (std::size_t r = 0; r < requests.size(); ++r) unanswered[r].tokens = requests[r].num_scored();
  std::vector<std::vector<LogLikelihood>> answers(num_variants, unanswered);
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    for (std::size_t v = 0; v < num_variants; ++v) {
      LogLikelihood& answer = answers[v][pieces[i].request];
      answer.sum += all[i * width + 1 + 2 * v];
      answer.greedy = answer.greedy && all[i * width + 2 + 2 * v] == 1.0;
    }
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
