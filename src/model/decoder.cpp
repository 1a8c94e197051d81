// Forward and backward over all layers.
#include "neuronmoe/model/decoder.hpp"

#include <algorithm>
#include <optional>

#include "decoder_buffers.hpp"
#include "neuronmoe/model/lm_head.hpp"
#include "neuronmoe/ops/linear.hpp"
#include "neuronmoe/ops/transformer.hpp"
#include "neuronmoe/tensor/device.hpp"

namespace nmoe::model {

namespace {

/// Ids of the batch, and labels where they are given, lie in the vocabulary.
void check_ids(ConstTensorView ids, std::int64_t vocab_size) {
  const auto* id = ids.data<std::int32_t>();
  for (std::int64_t t = 0; t < ids.num_elements(); ++t) {
    NMOE_CHECK(id[t] >= 0 && id[t] < vocab_size, bad_data, "ids[{}] = {} is outside [0, {}]", t, id[t],
               vocab_size - 1);
  }
}

/// Where the sequences behind a prefix find their keys; their queries are counted from the first of them.
std::vector<ops::PrefixedSequence> prefixed_sequences(const Batch& batch) {
  const std::size_t num_sequences = batch.offsets.size() - 1, count = batch.prefixes.size();
  NMOE_CHECK(count <= num_sequences, internal, "{} prefixes for {} sequences", count, num_sequences);
  const std::size_t num_alone = num_sequences - count;
  std::vector<ops::PrefixedSequence> result;
  for (std::size_t i = 0; i < count; ++i) {
    const auto prefix = static_cast<std::size_t>(batch.prefixes[i]);
    NMOE_CHECK(prefix < num_alone, internal, "prefixes[{}] = {} of {} sequences without prefix", i,
               batch.prefixes[i], num_alone);
    const std::int64_t own = batch.offsets[num_alone + i], from = batch.offsets[prefix];
    result.push_back({own - batch.offsets[num_alone], batch.offsets[num_alone + i + 1] - own, from,
                      batch.offsets[prefix + 1] - from, own});
  }
  return result;
}

/// Hands an observer copies in host memory.
class HostObserver final : public ActivationObserver {
 public:
  HostObserver(ActivationObserver& inner, Stream& stream) : inner_(inner), stream_(stream) {}
  bool wants(const ActivationSite& site) const override { return inner_.wants(site); }
  void observe(const ActivationSite& site, ConstTensorView values, ConstTensorView row_sample) override {
    inner_.observe(site, copied_to(Device::cpu, values, stream_).view(), row_sample);
  }
  void observe_router(int layer, ConstTensorView probs, ConstTensorView weights, ConstTensorView indices,
                      ConstTensorView row_sample) override {
    const Tensor p = copied_to(Device::cpu, probs, stream_), w = copied_to(Device::cpu, weights, stream_),
                 i = copied_to(Device::cpu, indices, stream_);
    inner_.observe_router(layer, p.view(), w.view(), i.view(), row_sample);
  }

 private:
  ActivationObserver& inner_;
  Stream& stream_;
};

}  // namespace

Decoder::Decoder(ModelConfig config, DType dtype, TrainableSet trainable, ExpertParallelGroup group,
                 Stream& stream)
    : config_(std::move(config)),
      dtype_(dtype),
      trainable_(trainable),
      plan_(make_freeze_plan(config_, trainable)),
      group_(std::move(group)),
      stream_(stream),
      rope_(config_, accumulator_of(dtype)),
      memory_{Arena(stream.device()), Arena(stream.device()), SendBuffer(group_.comm, stream.device()),
              SendBuffer(group_.comm, stream.device())},
      saved_(static_cast<std::size_t>(config_.num_layers)),
      saved_bytes_(static_cast<std::size_t>(config_.num_layers), 0) {
  for (const int e : config_.num_experts) routed_slots_.emplace_back(static_cast<std::size_t>(e), 0);
  declare_parameters();
  place_experts();
  bind_weights();
}

Decoder::Prepared Decoder::prepare(const Batch& batch, std::int64_t earlier) {
  memory_.saved.reset();
  memory_.scratch.reset();
  const std::int64_t num_tokens = batch.num_tokens();
  NMOE_CHECK(batch.ids.num_elements() == num_tokens, internal, "{} ids but offsets end at {}",
             batch.ids.num_elements(), num_tokens);
  const std::size_t num_alone = batch.offsets.size() - 1 - batch.prefixes.size();
  const std::vector<ops::PrefixedSequence> prefixed = prefixed_sequences(batch);
  std::vector<std::int32_t> positions(static_cast<std::size_t>(num_tokens));
  std::int64_t longest = 1;
  for (std::size_t b = 0; b + 1 < batch.offsets.size(); ++b) {
    const std::int64_t before = b < num_alone ? earlier : prefixed[b - num_alone].prefix_length;
    longest = std::max(longest, before + batch.offsets[b + 1] - batch.offsets[b]);
    for (std::int64_t t = batch.offsets[b]; t < batch.offsets[b + 1]; ++t) {
      positions[static_cast<std::size_t>(t)] = static_cast<std::int32_t>(before + t - batch.offsets[b]);
    }
  }
  rope_.reserve(longest, stream_);
  const bool staged = stream_.device() != Device::cpu;
  if (staged) check_ids(batch.ids, config_.vocab_size);  // kernels do not look
  const auto on_device =
      take_buffers<BatchBuffers>(memory_, FrameSizes{config_, num_tokens, dtype_},
                                 BatchParts{bool(batch.labels), bool(batch.old_mask), staged});
  copy(on_device.positions, ConstTensorView(positions.data(), DType::int32, {num_tokens}), stream_);
  const auto read_from = [&](TensorView there, ConstTensorView host) {
    if (!there) return host;
    copy(there, host, stream_);
    return ConstTensorView(there);
  };
  Prepared prepared{
      batch,
      {on_device.positions, std::span(batch.offsets).first(num_alone + 1), prefixed, batch.row_sample}};
  prepared.batch.ids = read_from(on_device.ids, batch.ids);
  prepared.batch.labels = read_from(on_device.labels, batch.labels);
  prepared.batch.old_mask = read_from(on_device.old_mask, batch.old_mask);
  return prepared;
}

LayerPass Decoder::layer_pass(int l, std::int64_t num_tokens, ActivationObserver* observer) {
  return {{config_, plan_.layers[static_cast<std::size_t>(l)], l, num_tokens, dtype_},
          memory_,
          observer,
          intervention_,
          stream_};
}

ResidualStream Decoder::layer_forward(TensorView y, const ResidualStream& in, const SequenceInfo& sequence,
                                      const LayerPass& pass) {
  const int l = pass.sizes.layer;
  const LayerWeights& w = layers_[static_cast<std::size_t>(l)];
  LayerSaved& saved = saved_[static_cast<std::size_t>(l)];
  saved = LayerSaved{};
  const ScratchScope scope(memory_.scratch);
  saved.middle = take_buffers<MiddleSaved>(memory_, pass.sizes);
  const auto [x_mid, inv_rms] = saved.middle;
  {
    const ScratchScope attention(memory_.scratch);
    AttentionLayer(w.attention, rope_).forward(x_mid, in, sequence, saved.attention, pass);
  }
  const auto [hn] = take_buffers<NormedInput>(memory_, pass.sizes);
  norm_residual(hn, inv_rms, {x_mid, in.x}, w.mlp_norm.value, config_.rms_norm_eps, stream_);
  pass.offer(Projection::mlp_input, -1, hn, sequence.row_sample);
  if (config_.is_moe(l)) {
    MoeLayer(group_, w.moe).forward(y, hn, sequence.row_sample, saved.moe, pass);
  } else {
    const FeedForwardSizes sizes = dense_sizes(pass.sizes);
    saved.mlp = take_buffers<FeedForwardSaved>(memory_, sizes);
    saved.mlp.x = hn;
    feed_forward_forward(y, saved.mlp, take_buffers<FeedForwardHidden>(memory_, sizes).h, w.mlp,
                         pass.replaced(), stream_);
    pass.offer(Projection::gate, -1, saved.mlp.gate, sequence.row_sample);
    pass.offer(Projection::up, -1, saved.mlp.up, sequence.row_sample);
    pass.offer(Projection::down, -1, y, sequence.row_sample);
  }
  return {y, x_mid};
}

ResidualStream Decoder::run_layers(const Batch& batch, const Passage& passage) {
  const auto take_stream = [&] {
    return take_buffers<StreamBuffer>(memory_, FrameSizes{config_, batch.num_tokens(), dtype_}).x;
  };
  const ResidualStream in{take_stream(), {}};
  // Two buffers take turns below the lowest layer that trains; above it every layer's output is kept.
  const TensorView other = passage.training && plan_.lowest_layer == 0 ? TensorView() : take_stream();
  weights_needed(plan_.embedding_segment());
  ops::embedding_forward(in.x, batch.ids, embedding_.value, stream_);
  return run_layers_from(0, in, other, passage);
}

ResidualStream Decoder::run_layers_from(int first, ResidualStream in, TensorView other,
                                        const Passage& passage) {
  std::optional<HostObserver> on_host;
  ActivationObserver* observer = passage.observer;
  if (observer != nullptr && stream_.device() != Device::cpu && !observer->takes_device_values())
    observer = &on_host.emplace(*observer, stream_);
  const std::int64_t num_tokens = in.x.dim(0);
  Arena& kept = memory_.saved;
  for (int l = first; l < config_.num_layers; ++l) {
    weights_needed(plan_.segment_of_layer(l));
    if (passage.before_layer) passage.before_layer(l, in);
    const LayerPass pass = layer_pass(l, num_tokens, observer);
    const Arena::Mark mark = kept.mark();
    if (passage.training && l >= plan_.lowest_layer) {
      const std::int64_t before = kept.in_use_bytes();
      const TensorView y = take_buffers<StreamBuffer>(memory_, FrameSizes{config_, num_tokens, dtype_}).x;
      in = layer_forward(y, in, passage.sequence, pass);
      saved_bytes_[static_cast<std::size_t>(l)] = kept.in_use_bytes() - before;
    } else {
      // Of this layer only what is pending is read again: its memory is used for the next one, which gives
      // the place of the pending tensor to one of its own that it writes after the norm has read that.
      const TensorView before = in.x;
      in = layer_forward(other, in, passage.sequence, pass);
      other = before;
      if (l + 1 < config_.num_layers) kept.rewind(mark);
    }
  }
  weights_needed(0);
  if (passage.training) count_routing();
  return in;
}

void Decoder::count_routing() {
  for (std::size_t l = 0; l < routed_slots_.size(); ++l) {
    if (!saved_[l].moe.dispatcher) continue;
    const std::vector<std::int64_t>& slots = saved_[l].moe.dispatcher->slots_of_expert();
    for (std::size_t e = 0; e < slots.size(); ++e) routed_slots_[l][e] += slots[e];
  }
}

std::int64_t Decoder::weight_bytes() const {
  std::int64_t bytes = 0;
  for (const Parameter& p : parameters_) bytes += p.value.view().num_bytes();
  return bytes;
}

std::int64_t Decoder::gradient_bytes() const {
  std::int64_t bytes = 0;
  for (const Tensor& t : gradients_) bytes += t.view().num_bytes();
  return bytes;
}

void Decoder::layer_backward(TensorView dx, const SequenceInfo& sequence, const RouterLosses& losses,
                             const LayerPass& pass) {
  const int l = pass.sizes.layer;
  const LayerPlan& plan = pass.plan();
  const LayerWeights& w = layers_[static_cast<std::size_t>(l)];
  LayerSaved& saved = saved_[static_cast<std::size_t>(l)];
  const auto [x_mid, inv_rms] = saved.middle;
  {
    const ScratchScope scope(memory_.scratch);
    const auto [dhn, hn] = take_buffers<MlpBackwardScratch>(memory_, pass.sizes);
    if (hn)  // the normed input was not kept: norm again
      ops::rms_norm_forward(hn, inv_rms, x_mid, w.mlp_norm.value, config_.rms_norm_eps, stream_);
    if (config_.is_moe(l)) {
      MoeLayer(group_, w.moe).backward(dhn, dx, hn, saved.moe, losses, pass);
    } else if (plan.keeps_base_mlp()) {
      saved.mlp.x = hn;
      const auto buffers = take_buffers<FeedForwardScratch>(memory_, dense_sizes(pass.sizes));
      feed_forward_backward(dhn, dx, saved.mlp, buffers, w.mlp, stream_);
    }
    if (plan.mlp_input)
      ops::rms_norm_backward(dx, w.mlp_norm.grad, dhn, x_mid, w.mlp_norm.value, inv_rms, true, stream_);
  }
  if (plan.keeps_attention())
    AttentionLayer(w.attention, rope_).backward(dx, sequence, saved.attention, pass);
}

Losses Decoder::forward_backward(const Batch& host_batch, const LossScales& scales,
                                 const StatisticsSum& sum_statistics) {
  NMOE_CHECK(host_batch.prefixes.empty(), internal, "a training pass with {} sequences behind prefixes",
             host_batch.prefixes.size());
  NMOE_CHECK(intervention_ == nullptr, internal, "a training pass with an intervention from layer {} on",
             intervention_->first_layer());
  if (gradients_.empty()) own_gradients();
  const auto [batch, sequence] = prepare(host_batch);
  const ResidualStream out = run_layers(batch, {.sequence = sequence, .training = true});
  std::vector<double> statistics;
  if (sum_statistics) {
    statistics = balancing_statistics(batch);
    sum_statistics(statistics);
  }
  const FrameSizes frame{config_, batch.num_tokens(), dtype_};
  const auto [token_losses, auxiliary, dx] = take_buffers<LossBuffers>(memory_, frame);
  zero(auxiliary, stream_);
  const AuxiliaryInput losses{scales, count_old(host_batch), std::move(statistics), auxiliary,
                              batch.old_mask};
  begin_segment(0);
  {
    const ScratchScope scope(memory_.scratch);
    const auto [xf, inv_rms, dxf] = take_buffers<HeadScratch>(memory_, frame);
    const auto [logits] =
        take_buffers<LmHeadScratch>(memory_, batch.num_tokens(), config_.vocab_size, dtype_);
    final_norm(xf, inv_rms, out);
    ops::fill(dxf, 0.0, stream_);
    lm_head_loss(token_losses, dxf, {xf, batch.labels, scales.lm}, head_, logits, stream_);
    ops::rms_norm_backward(dx, final_norm_.grad, dxf, out.x, final_norm_.value, inv_rms, false, stream_);
  }
  gradients_ready(0);
  for (int l = config_.num_layers - 1; l >= plan_.lowest_layer; --l) {
    begin_segment(plan_.segment_of_layer(l));
    LayerPass pass = layer_pass(l, batch.num_tokens(), nullptr);
    pass.sizes.router_losses = has_auxiliary_loss(scales);
    pass.sizes.global_balancing = sum_statistics && scales.balancing != 0.0;
    layer_backward(dx, sequence, router_losses(l, losses), pass);
    gradients_ready(plan_.segment_of_layer(l));
  }
  if (plan_.embedding) {
    begin_segment(plan_.embedding_segment());
    ops::embedding_backward(embedding_.grad, dx, batch.ids, stream_);
    gradients_ready(plan_.embedding_segment());
  }
  return read_losses(token_losses, losses, host_batch);
}

void Decoder::observe(const Batch& batch, ActivationObserver& observer) {
  const Prepared prepared = prepare(batch);
  static_cast<void>(run_layers(prepared.batch, {prepared.sequence, &observer}));
}

}  // namespace nmoe::model
