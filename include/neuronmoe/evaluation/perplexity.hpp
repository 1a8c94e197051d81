#pragma once
// Perplexity of held-out text, document by document as lm-evaluation-harness has it, and where the routers
// send it (docs/evaluation.md). `neuronmoe evaluate` calls it.
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "neuronmoe/data/token_file.hpp"
#include "neuronmoe/evaluation/log_likelihood.hpp"
#include "neuronmoe/evaluation/scores.hpp"
#include "neuronmoe/model/config.hpp"
#include "neuronmoe/model/observer.hpp"

namespace nmoe::evaluation {

/// Mean weight of the base expert in each MoE layer: its weight after top-k and renormalization, 0 for a
/// token that does not choose it, averaged over the tokens the model reads. Sums are integers (steps of
/// 2^-30), so ranks and order do not matter.
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
  /// Returns the means of the MoE layers in order, the same on every rank. Collective.
  std::vector<LayerMean> finish(comm::Communicator& comm, Stream& stream);

 private:
  std::vector<int> layers_;                  // MoE layers
  std::vector<int> slot_of_layer_;           // −1 for dense ones
  std::vector<std::int64_t> sums_, counts_;  // per MoE layer
};

/// Documents whose log-likelihoods are measured.
struct HeldOutText {
  std::vector<Request> documents;        ///< rolling: the prefix, and its tokens without the EOS at its end
  std::vector<std::int64_t> numbers;     ///< in the token file, from 0
  std::optional<data::TextSizes> sizes;  ///< of these documents, if the file has them
};

/// Returns the token that a document is predicted from, lm-eval's prefix_token_id: the BOS of the tokenizer,
/// or else EOS.
std::int32_t prefix_of(const data::TokenFileInfo& info);

/// Returns the documents in `language`, in the order of the file: all of them, or as many of the first as
/// have max_tokens tokens together (0 = all). None is cut.
/// @throws Error(bad_data) naming the file if it has no such language or no token to predict
HeldOutText held_out_text(const data::TokenFile& file, const std::optional<data::TextSizes>& sizes,
                          const std::string& language, std::int64_t max_tokens);

/// Of all documents together.
struct Perplexity {
  double log_likelihood = 0.0;  ///< nats
  std::int64_t tokens = 0;      ///< scored
  std::int64_t documents = 0;
  std::optional<std::int64_t> bytes = {}, words = {};
  double nll() const;  ///< mean over tokens, nats
  double ppl() const;  ///< exp(nll)
  /// Returns perplexity and counts: per token, and per word and byte as lm-eval has them (null if their
  /// number is not known).
  Scores scores() const;
};

/// Adds the answers of the documents up in their order: their rolling log-likelihoods, as
/// measure_log_likelihoods gives them for the requests.
Perplexity perplexity_of(const HeldOutText& text, std::span<const LogLikelihood> answers);

}  // namespace nmoe::evaluation
