#pragma once
// Requests cut into pieces that the model reads at once, and pieces put into batches in which those with the
// same context stand behind one copy of it.
#include <cstdint>
#include <span>
#include <vector>

#include "neuronmoe/evaluation/log_likelihood.hpp"

namespace nmoe::evaluation {

/// A request, or a window of a rolling one: views into its ids.
struct RequestPiece {
  std::size_t request;
  std::span<const std::int32_t> context, continuation;  ///< neither is empty
  bool shares;                                          ///< whether equal contexts are run once
};
/// In the order of the requests, the windows of one in the order of its tokens.
std::vector<RequestPiece> request_pieces(std::span<const Request> requests, std::int64_t max_length);

/// Pieces with one context, by their numbers.
struct ContextGroup {
  std::span<const std::int32_t> context;
  std::vector<std::size_t> pieces;
};
struct RequestBatch {
  std::vector<ContextGroup> groups;
  std::int64_t num_tokens = 0;  ///< contexts and continuations
};
/// Groups in the order of their first pieces, about batch_tokens tokens to a batch; a context that is longer
/// or has more continuations than fit stands in several.
std::vector<RequestBatch> request_batches(std::span<const RequestPiece> pieces, std::int64_t batch_tokens);

/// What a batch looks like to the model.
struct BuiltBatch {
  model::BatchBuilder builder;
  std::vector<model::LabelAt> labels;  ///< piece after piece, tokens in order
};
BuiltBatch build_batch(const RequestBatch& batch, std::span<const RequestPiece> pieces);

}  // namespace nmoe::evaluation
