#pragma once
// Perplexity of held-out text, and where the routers send it (QUICKSTART 1 and 5). `neuronmoe evaluate` calls
// it.
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "neuronmoe/comm/execution_context.hpp"
#include "neuronmoe/data/token_file.hpp"
#include "neuronmoe/evaluation/scores.hpp"
#include "neuronmoe/model/batch.hpp"
#include "neuronmoe/model/config.hpp"
#include "neuronmoe/model/observer.hpp"

namespace nmoe::evaluation {

/// log p(labels[t]) per token, 0 where ignored; usually Decoder::token_log_probs. Collective over the
/// expert-parallel group, hence called equally often on every rank.
using LogProbFunction = std::function<std::vector<double>(const model::Batch&, model::ActivationObserver*)>;

/// Mean weight of the base expert in each MoE layer: its weight after top-k and renormalisation, 0 for a
/// token that does not choose it, averaged over tokens. Sums are integers (steps of 2^-30), so ranks and
/// order do not matter.
class RouterStatistics : public model::ActivationObserver {
 public:
  explicit RouterStatistics(const model::ModelConfig& config);
  bool wants(const model::ActivationSite&) const override { return false; }
  void observe(const model::ActivationSite&, ConstTensorView, ConstTensorView) override {}
  void observe_router(int layer, ConstTensorView probs, ConstTensorView weights, ConstTensorView indices,
                      ConstTensorView row_sample) override;
  struct LayerMean {
    int layer;
    double base_weight;
  };
  /// MoE layers in order, the same on every rank. Collective.
  std::vector<LayerMean> finish(comm::Communicator& comm, Stream& stream);

 private:
  std::vector<int> layers_;                  // MoE layers
  std::vector<int> slot_of_layer_;           // −1 for dense ones
  std::vector<std::int64_t> sums_, counts_;  // per MoE layer
};

struct Perplexity {
  double nll = 0.0;         ///< mean over tokens, nats
  std::int64_t tokens = 0;  ///< scored labels
  double ppl() const;       ///< exp(nll)
  Scores scores() const { return {{"ppl", ppl()}, {"nll", nll}, {"tokens", tokens}}; }
};

/// The first `max_tokens` tokens (0 = all) of the documents in `language`, laid end to end with their EOS.
/// @throws Error(bad_data) naming the file if it has no such language or fewer than two tokens of it
std::vector<std::int32_t> language_stream(const data::TokenFile& file, const std::string& language,
                                          std::int64_t max_tokens);

/// Cuts `ids` into blocks; each token but a block's first is predicted from the block before it; EOS labels
/// do not count. Blocks are batched independently of the rank count, batch b runs on rank b mod R, and sums
/// are added in block order: the same result on any number of ranks.   Collective; the same result on every
/// rank.
/// @param routers may be null
Perplexity measure_perplexity(comm::ExecutionContext& context, std::span<const std::int32_t> ids,
                              std::int64_t block, std::int32_t eos_id, const LogProbFunction& log_probs,
                              RouterStatistics* routers);

}  // namespace nmoe::evaluation
