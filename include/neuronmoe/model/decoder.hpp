#pragma once
// The decoder: a dense Llama/Qwen or its upcycled mixture of experts, forward and backward (METHOD 5-6,
// DESIGN 4). train, analysis and evaluation drive it. Shape letters: ops/linear.hpp.
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "neuronmoe/model/attention_layer.hpp"
#include "neuronmoe/model/batch.hpp"
#include "neuronmoe/model/config.hpp"
#include "neuronmoe/model/moe_layer.hpp"
#include "neuronmoe/model/router.hpp"

namespace nmoe::model {

/// Sums the balancing statistics of all micro-batches of a step in place (lbl.scope = global): layer after
/// layer the [E] choice counts and the [E] probability sums, at the end the number of tokens. Called once per
/// forward_backward, between the two, on every rank; every router must be trainable.
using StatisticsSum = std::function<void(std::span<double> statistics)>;

/// Called by training and evaluation passes at the borders of segments (FreezePlan), in the same order on
/// every rank. They may start and await collectives.
struct SegmentHooks {
  /// Called before the weights of a segment are read in a forward pass.
  std::function<void(int segment)> weights_needed;
  /// Called after a segment of backward: every gradient whose last_writer it is, is complete.
  std::function<void(int segment)> gradients_ready;
};

/// What a layer keeps of the residual stream between its halves.
struct MiddleSaved {
  TensorView x_mid, inv_rms;  // [T, D] after attention, [T] acc: its norm's scale
};
template <typename F>
void for_each_buffer(MiddleSaved& b, const LayerSizes& s, F&& f) {
  f(b.x_mid, Memory::saved, {s.num_tokens, s.config.hidden_size}, s.dtype);
  f(b.inv_rms, Memory::saved, {s.num_tokens}, s.acc());
}

/// A label where it is to be scored.
struct LabelAt {
  std::int32_t token;  ///< row of the batch, whose next token the label may be
  std::int32_t label;
};
struct LabelScore {
  double log_prob;
  bool greedy;  ///< whether the label has the largest logit, the lowest id winning ties
};

class Decoder {
 public:
  /// Allocates the parameters this rank holds (zeros). `group` is the expert-parallel group of this rank; its
  /// communicator and `stream` outlive the decoder.
  Decoder(ModelConfig config, DType dtype, TrainableSet trainable, ExpertParallelGroup group, Stream& stream);
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  const ModelConfig& config() const { return config_; }
  DType dtype() const { return dtype_; }
  Stream& stream() const { return stream_; }  ///< its device is where parameters are
  const FreezePlan& freeze_plan() const { return plan_; }
  const ExpertParallelGroup& expert_parallel_group() const { return group_; }
  /// Returns the parameters sorted by name, the canonical order of files, norms and shards.
  std::vector<Parameter>& parameters() { return parameters_; }
  const std::vector<Parameter>& parameters() const { return parameters_; }
  /// @throws Error(internal) if there is none of that name or role.
  Parameter& parameter(std::string_view name);
  Parameter& parameter(Role role, int layer = -1, int expert = -1);

  /// Draws random dense weights, a pure function of (seed, name, element): N(0, 1/sqrt(fan_in)); o and down
  /// further divided by sqrt(2 L); embeddings N(0, 0.02); norms 1; biases 0.
  void initialise_dense(std::uint64_t seed);
  /// Makes a mixture of the dense weights: new experts = exact copies of the base MLP; routers Xavier normal,
  /// std sqrt(2 / (D + E)) (METHOD 5).
  void upcycle(std::uint64_t seed);

  /// Sets every gradient leaf to zero; what has no memory yet gets its own. Before the backward of a
  /// micro-batch, or of the first of several whose gradients are to be added (not with share_gradients).
  void zero_gradients();
  /// Makes all segments put their gradients, from now on, into one memory of the size of the largest segment:
  /// a gradient lives only until `gradients_ready` of its segment returns (a tensor written by two segments
  /// keeps its own).
  void share_gradients();
  void set_hooks(SegmentHooks hooks) { hooks_ = std::move(hooks); }
  /// Sets what every later pass replaces of outputs (null: none); no pass may train then. `intervention`
  /// outlives that.
  void set_intervention(const Intervention* intervention) { intervention_ = intervention; }
  /// Runs forward and backward of one micro-batch; gradients are added into `Parameter::grad`. T = 0 is
  /// allowed. Collective over the expert-parallel group (same number of calls on every rank). With
  /// `sum_statistics` the balancing loss is that of all micro-batches it sums over, and each of them gets its
  /// tokens' share of the gradient.
  Losses forward_backward(const Batch& batch, const LossScales& scales,
                          const StatisticsSum& sum_statistics = nullptr);
  /// Runs a forward pass without lm-head for observers. Collective over the expert-parallel group.
  void observe(const Batch& batch, ActivationObserver& observer);
  /// Returns log p(labels[t]) per token, 0 where ignored; an observer may watch. Collective over the
  /// expert-parallel group.
  std::vector<double> token_log_probs(const Batch& batch, ActivationObserver* observer = nullptr);
  /// Returns the log-probabilities of labels at chosen tokens, any number at each; the lm-head runs on those
  /// alone. Every label's bits are those of token_log_probs where rows of products are independent
  /// (ops::cpu::rows_are_independent). Labels of the batch are not read; an observer may watch. Collective
  /// over the expert-parallel group.
  std::vector<LabelScore> label_scores(const Batch& batch, std::span<const LabelAt> labels,
                                       ActivationObserver* observer = nullptr);
  /// Returns the answers of label_scores without an intervention, then with each of `interventions`; the
  /// observer watches the first. Each starts where it differs: layers below the first that it touches run
  /// once for all, and its bits are those of a pass of its own. `after_each`, if given, is called between
  /// them, so that the caller can show signs of life. Collective over the expert-parallel group, with the
  /// same interventions on every rank. @pre set_intervention has set none
  std::vector<std::vector<LabelScore>> label_scores_of_each(
      const Batch& batch, std::span<const LabelAt> labels, std::span<const Intervention> interventions,
      ActivationObserver* observer = nullptr, const std::function<void()>& after_each = nullptr);
  /// Returns the logits of what may follow the last of `ids`, [1, V] acc on the host, and adds their keys and
  /// values to the cache, behind whose tokens they stand. No ids: takes part in the pass and returns {}.
  /// Collective over the expert-parallel group, each rank with a sequence of its own. @throws Error(internal)
  /// if the cache is too small
  Tensor next_logits(std::span<const std::int32_t> ids, KeyValueCache& cache);
  /// Returns the logits of every token at once, [T, V] acc: for comparisons on small models; the loss never
  /// needs them whole. Collective over the expert-parallel group.
  Tensor logits(const Batch& batch);
  /// Reserves memory for passes that need at most so many bytes, in one piece each: none of them allocates
  /// any.
  void reserve_memory(const StepBytes& bytes) { memory_.reserve(bytes); }
  /// Returns the memory of this rank in bytes, counted from what was allocated.
  std::int64_t weight_bytes() const;
  std::int64_t gradient_bytes() const;
  /// Returns the largest use of each memory so far.
  StepBytes peak_bytes() const { return memory_.peak_bytes(); }
  /// Returns what each layer kept for backward in the last training pass, bytes.
  const std::vector<std::int64_t>& saved_bytes() const { return saved_bytes_; }
  /// Returns the routed slots so far: [layer][expert], this rank's tokens, training passes only.
  const std::vector<std::vector<std::int64_t>>& routed_slots() const { return routed_slots_; }

 private:
  struct LayerWeights {
    AttentionWeights attention;
    Weight mlp_norm;
    FeedForwardWeights mlp;  // dense MLP or base expert
    MoeWeights moe;          // only for MoE layers
  };
  struct LayerSaved {
    AttentionSaved attention;
    MiddleSaved middle;
    FeedForwardSaved mlp;
    MoeSaved moe;
  };

  std::int64_t num_leaves(const Parameter& p) const {
    return p.is_new_expert() && !group_.placement.is_replicated(p.layer, p.expert) ? group_.comm.size() : 1;
  }
  void begin_segment(int segment);
  void weights_needed(int segment) const {
    if (hooks_.weights_needed) hooks_.weights_needed(segment);
  }
  void gradients_ready(int segment) const {
    if (hooks_.gradients_ready) hooks_.gradients_ready(segment);
  }
  void declare_parameters();
  /// Allocates memory for every gradient, one beside the other.
  void own_gradients();
  void place_experts();
  void bind_weights();
  /// Returns {} for a role that the architecture does not have.
  Weight weight_of(Role role, int layer = -1, int expert = -1, int leaf = 0);
  FeedForwardWeights expert_weights(int layer, int expert = -1, int leaf = 0);
  /// The batch as kernels read it, on the stream's device; row_sample, which only observers read, stays on
  /// the host.
  struct Prepared {
    Batch batch;
    SequenceInfo sequence;
  };
  /// @param earlier tokens of the one sequence that passes before this one had
  Prepared prepare(const Batch& batch, std::int64_t earlier = 0);
  /// Called with the number of a layer that runs next and the stream that it is given.
  using LayerHook = std::function<void(int layer, const ResidualStream& in)>;
  /// What a pass through layers is given besides the stream. Layers the freeze plan needs keep what backward
  /// reads when `training`.
  struct Passage {
    const SequenceInfo& sequence;
    ActivationObserver* observer = nullptr;
    bool training = false;
    LayerHook before_layer = nullptr;
  };
  /// Returns the residual stream after all layers.
  ResidualStream run_layers(const Batch& batch, const Passage& passage);
  /// Runs the same from layer `first` on, whose input is `in`; `other` [T, D] takes turns with in.x.
  ResidualStream run_layers_from(int first, ResidualStream in, TensorView other, const Passage& passage);
  std::vector<LabelScore> score_labels(const ResidualStream& out, std::span<const LabelAt> labels);
  LayerPass layer_pass(int l, std::int64_t num_tokens, ActivationObserver* observer);
  /// Writes the layer's MLP output to y and returns the residual stream including it.
  ResidualStream layer_forward(TensorView y, const ResidualStream& in, const SequenceInfo& sequence,
                               const LayerPass& pass);
  void final_norm(TensorView y, TensorView inv_rms, const ResidualStream& in) {
    norm_residual(y, inv_rms, in, final_norm_.value, config_.rms_norm_eps, stream_);
  }
  /// Adds a training pass to routed_slots().
  void count_routing();
  void layer_backward(TensorView dx, const SequenceInfo& sequence, const RouterLosses& losses,
                      const LayerPass& pass);
  std::vector<double> balancing_statistics(const Batch& batch);
  /// What a micro-batch's auxiliary losses are computed from on every layer; `statistics` empty: from itself.
  struct AuxiliaryInput {
    const LossScales& scales;
    std::int64_t num_old;  ///< tokens of old languages
    std::vector<double> statistics;
    TensorView values;         ///< [L, num_auxiliary_losses] float64
    ConstTensorView old_mask;  ///< [T] uint8
  };
  RouterLosses router_losses(int l, const AuxiliaryInput& input) const;
  /// Returns the losses of a micro-batch from where their kernels left them: the one time its losses are read
  /// back.
  Losses read_losses(ConstTensorView token_losses, const AuxiliaryInput& input, const Batch& host_batch);

  ModelConfig config_;
  DType dtype_;
  TrainableSet trainable_;
  FreezePlan plan_;
  ExpertParallelGroup group_;
  Stream& stream_;
  std::vector<Parameter> parameters_;
  std::vector<LayerWeights> layers_;
  std::vector<Tensor> places_;  // of experts, one per layer; on the device once, not in every pass
  Weight embedding_, final_norm_, head_;
  RopeTable rope_;
  StepMemory memory_;
  std::vector<LayerSaved> saved_;
  std::vector<Tensor> gradients_;  // none before the first training pass, zero_gradients or share_gradients
  bool gradients_shared_ = false;
  SegmentHooks hooks_;
  const Intervention* intervention_ = nullptr;  // or null
  std::vector<std::int64_t> saved_bytes_;
  std::vector<std::vector<std::int64_t>> routed_slots_;
};

}  // namespace nmoe::model
