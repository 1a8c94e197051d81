#pragma once
// Text that a model writes, token by token. Used by `neuronmoe generate`.
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "neuronmoe/comm/execution_context.hpp"
#include "neuronmoe/tensor/tensor.hpp"

namespace nmoe::evaluation {

struct Sampling {
  double temperature = 0.0;  ///< 0: the most probable token
  double top_p = 1.0;        ///< draws among the most probable tokens that have this much together
  std::uint64_t seed = 0;
};

/// Returns the next token: the one of the largest logit, the lowest id of equal ones, or one drawn from
/// softmax(logits / temperature) cut to top_p; `uniform` in [0, 1) decides. Ties in the order of top_p go to
/// the lower id. @throws Error(bad_data) if no logit is finite
std::int32_t pick_token(std::span<const float> logits, const Sampling& sampling, double uniform);

struct Prompt {
  std::vector<std::int32_t> ids;  ///< at least one
};
struct Generated {
  std::vector<std::int32_t> ids;  ///< what follows the prompt, without the token that ended it
  bool ended = false;  ///< by a token that ends a text; else by max_tokens or the end of the positions
};

/// What generate_texts is told.
struct GenerationLimits {
  std::int64_t max_tokens;               ///< of one text, prompt not counted
  std::int64_t max_length;               ///< of prompt and text together
  std::vector<std::int32_t> end_tokens;  ///< any of them ends a text
};
/// Gives logits of the next token of a sequence whose new tokens are `ids` ({}: another rank's turn; returns
/// {}); `restart` says that they begin a sequence. Collective.
using NextLogits = std::function<Tensor(std::span<const std::int32_t> ids, bool restart)>;
/// Called on the rank that writes text `number` after every token; `last` says that none follows.
using OnToken = std::function<void(std::size_t number, const Generated& so_far, bool last)>;

/// Continues every prompt; prompt i is written by rank i mod the number of ranks, the random numbers are a
/// function of seed, i and the place in the text, so neither depends on the number of ranks. Returns the
/// texts in the order of the prompts, on every rank. Collective.
std::vector<Generated> generate_texts(comm::ExecutionContext& context, std::span<const Prompt> prompts,
                                      const Sampling& sampling, const GenerationLimits& limits,
                                      const NextLogits& next_logits, const OnToken& on_token = nullptr);

}  // namespace nmoe::evaluation
