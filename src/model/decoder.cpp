// Forward and backward over all layers.
#include "neuronmoe/model/decoder.hpp"

#include <algorithm>
#include <optional>

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

Decoder::Prepared Decoder::prepare(const Batch& batch) {
  memory_.saved.reset();
  memory_.scratch.reset();
  const std::int64_t num_tokens = batch.num_tokens();
  NMOE_CHECK(batch.ids.num_elements() == num_tokens, internal, "{} ids but offsets end at {}",
             batch.ids.num_elements(), num_tokens);
  std::vector<std::int32_t> positions(static_cast<std::size_t>(num_tokens));
  std::int64_t longest = 1;
  for (std::size_t b = 0; b + 1 < batch.offsets.size(); ++b) {
    longest = std::max(longest, batch.offsets[b + 1] - batch.offsets[b]);
    for (std::int64_t t = batch.offsets[b]; t < batch.offsets[b + 1]; ++t) {
      positions[static_cast<std::size_t>(t)] = static_cast<std::int32_t>(t - batch.offsets[b]);
    }
  }
  rope_.reserve(longest, stream_);
  const auto staged = [&](ConstTensorView host) {
    if (!host || stream_.device() == Device::cpu) return host;
    TensorView there = memory_.saved.take(host.shape(), host.dtype());
    copy(there, host, stream_);
    return ConstTensorView(there);
  };
  if (stream_.device() != Device::cpu) check_ids(batch.ids, config_.vocab_size);  // kernels do not look
  TensorView on_device = memory_.saved.take({num_tokens}, DType::int32);
  copy(on_device, ConstTensorView(positions.data(), DType::int32, {num_tokens}), stream_);
  Prepared prepared{batch, {on_device, batch.offsets, batch.row_sample}};
  prepared.batch.ids = staged(batch.ids);
  prepared.batch.labels = staged(batch.labels);
  prepared.batch.old_mask = staged(batch.old_mask);
  return prepared;
}

ResidualStream Decoder::layer_forward(int l, TensorView y, const ResidualStream& in,
                                      const SequenceInfo& sequence, ActivationObserver* observer) {
  const LayerWeights& w = layers_[static_cast<std::size_t>(l)];
  const LayerPlan& plan = plan_.layers[static_cast<std::size_t>(l)];
  LayerSaved& saved = saved_[static_cast<std::size_t>(l)];
  saved = LayerSaved{};
  const ScratchScope scope(memory_.scratch);
  const std::int64_t num_tokens = y.dim(0);
  saved.x_mid = memory_.saved.take(y.shape(), dtype_);
  saved.inv_rms = memory_.saved.take({num_tokens}, accumulator_of(dtype_));
  {
    const ScratchScope attention(memory_.scratch);
    AttentionLayer(l, config_)
        .forward(saved.x_mid, in, sequence, w.attention, saved.attention, rope_, plan, memory_, observer,
                 stream_);
  }
  const TensorView hn = memory_.scratch.take(y.shape(), dtype_);
  norm_residual(hn, saved.inv_rms, {saved.x_mid, in.x}, w.mlp_norm.value, config_.rms_norm_eps, stream_);
  const auto offer = [&](Projection projection, ConstTensorView values) {
    const ActivationSite site{l, projection, -1};
    if (observer != nullptr && observer->wants(site)) observer->observe(site, values, sequence.row_sample);
  };
  offer(Projection::mlp_input, hn);
  if (config_.is_moe(l)) {
    MoeLayer(l, config_, group_)
        .forward(y, hn, sequence.row_sample, w.moe, saved.moe, plan, memory_, observer, stream_);
  } else {
    const Shape wide{num_tokens, config_.intermediate_size};
    Arena& kept = plan.keeps_base_mlp() ? memory_.saved : memory_.scratch;
    saved.mlp = {hn, kept.take(wide, dtype_), kept.take(wide, dtype_)};
    feed_forward_forward(y, saved.mlp, memory_.scratch.take(wide, dtype_), w.mlp, stream_);
    offer(Projection::gate, saved.mlp.gate);
    offer(Projection::up, saved.mlp.up);
    offer(Projection::down, y);
  }
  return {y, saved.x_mid};
}

ResidualStream Decoder::run_layers(const Batch& batch, const SequenceInfo& sequence,
                                   ActivationObserver* observer, bool training) {
  std::optional<HostObserver> on_host;
  if (observer != nullptr && stream_.device() != Device::cpu && !observer->takes_device_values())
    observer = &on_host.emplace(*observer, stream_);
  const Shape shape{batch.num_tokens(), config_.hidden_size};
  Arena& kept = memory_.saved;
  ResidualStream in{kept.take(shape, dtype_), {}};
  // Two buffers take turns below the lowest layer that trains; above it every layer's output is kept.
  TensorView other = training && plan_.lowest_layer == 0 ? TensorView() : kept.take(shape, dtype_);
  weights_needed(plan_.embedding_segment());
  ops::embedding_forward(in.x, batch.ids, embedding_.value, stream_);
  for (int l = 0; l < config_.num_layers; ++l) {
    weights_needed(plan_.segment_of_layer(l));
    const Arena::Mark mark = kept.mark();
    if (training && l >= plan_.lowest_layer) {
      const std::int64_t before = kept.in_use_bytes();
      in = layer_forward(l, kept.take(shape, dtype_), in, sequence, observer);
      saved_bytes_[static_cast<std::size_t>(l)] = kept.in_use_bytes() - before;
    } else {
      // Of this layer only what is pending is read again: its memory is used for the next one, which gives
      // the place of the pending tensor to one of its own that it writes after the norm has read that.
      const TensorView before = in.x;
      in = layer_forward(l, other, in, sequence, observer);
      other = before;
      if (l + 1 < config_.num_layers) kept.rewind(mark);
    }
  }
  weights_needed(0);
  if (training) count_routing();
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

void Decoder::layer_backward(int l, TensorView dx, const SequenceInfo& sequence, const Batch& batch,
                             const AuxLossScales& scales, const AuxLosses& losses) {
  const LayerWeights& w = layers_[static_cast<std::size_t>(l)];
  const LayerPlan& plan = plan_.layers[static_cast<std::size_t>(l)];
  LayerSaved& saved = saved_[static_cast<std::size_t>(l)];
  {
    Arena& scratch = memory_.scratch;
    const ScratchScope scope(scratch);
    TensorView dhn = plan.mlp_input ? scratch.take(dx.shape(), dtype_) : TensorView(), hn;
    if (config_.is_moe(l) || plan.base_mlp_weights) {  // the normed input was not kept: norm again
      hn = scratch.take(dx.shape(), dtype_);
      ops::rms_norm_forward(hn, saved.inv_rms, saved.x_mid, w.mlp_norm.value, config_.rms_norm_eps, stream_);
    }
    if (config_.is_moe(l)) {
      MoeLayer(l, config_, group_)
          .backward(dhn, dx, hn, batch.old_mask, w.moe, saved.moe, scales, losses, plan, memory_, stream_);
    } else if (plan.mlp_input || plan.base_mlp_weights) {
      const Shape wide{dx.dim(0), config_.intermediate_size};
      const FeedForwardScratch buffers{scratch.take(wide, dtype_), scratch.take(wide, dtype_),
                                       scratch.take(wide, dtype_), scratch.take(wide, dtype_)};
      saved.mlp.x = hn;
      feed_forward_backward(dhn, false, dx, saved.mlp, buffers, w.mlp, stream_);
    }
    if (plan.mlp_input) {
      ops::rms_norm_backward(dx, w.mlp_norm.grad, dhn, saved.x_mid, w.mlp_norm.value, saved.inv_rms, true,
                             stream_);
    }
  }
  if (plan.layer_input || plan.attention_weights) {
    AttentionLayer(l, config_)
        .backward(dx, sequence, w.attention, saved.attention, rope_, plan, memory_.scratch, stream_);
  }
}

Losses Decoder::forward_backward(const Batch& host_batch, const LossScales& scales,
                                 const StatisticsSum& sum_statistics) {
  if (gradients_.empty()) own_gradients();
  const auto [batch, sequence] = prepare(host_batch);
  const ResidualStream out = run_layers(batch, sequence, nullptr, true);
  std::vector<double> statistics;
  if (sum_statistics) {
    statistics = balancing_statistics(batch);
    sum_statistics(statistics);
  }
  const std::int64_t num_tokens = batch.num_tokens();
  const DType acc = accumulator_of(dtype_);
  Arena& scratch = memory_.scratch;
  const std::int64_t num_old = count_old(host_batch);
  TensorView token_losses = memory_.saved.take({num_tokens}, acc);
  TensorView aux_losses = memory_.saved.take({config_.num_layers, 2}, DType::float64);
  zero(aux_losses, stream_);
  TensorView dx = scratch.take(out.x.shape(), dtype_);
  begin_segment(0);
  {
    const ScratchScope scope(scratch);
    TensorView xf = scratch.take(out.x.shape(), dtype_), inv_rms = scratch.take({num_tokens}, acc);
    TensorView dxf = scratch.take(out.x.shape(), dtype_);
    final_norm(xf, inv_rms, out);
    ops::fill(dxf, 0.0, stream_);
    lm_head_loss(token_losses, dxf, xf, head_, batch.labels, scales.lm, scratch, stream_);
    ops::rms_norm_backward(dx, final_norm_.grad, dxf, out.x, final_norm_.value, inv_rms, false, stream_);
  }
  gradients_ready(0);
  for (int l = config_.num_layers - 1; l >= plan_.lowest_layer; --l) {
    begin_segment(plan_.segment_of_layer(l));
    const TensorView of_layer = aux_losses.rows(l, 1).reshape({2});
    layer_backward(l, dx, sequence, batch, layer_scales(l, scales, num_old, statistics),
                   {of_layer.rows(0, 1), of_layer.rows(1, 1)});
    gradients_ready(plan_.segment_of_layer(l));
  }
  if (plan_.embedding) {
    begin_segment(plan_.embedding_segment());
    ops::embedding_backward(embedding_.grad, dx, batch.ids, stream_);
    gradients_ready(plan_.embedding_segment());
  }
  return read_losses(token_losses, aux_losses, host_batch, scales, statistics);
}

void Decoder::observe(const Batch& batch, ActivationObserver& observer) {
  const Prepared prepared = prepare(batch);
  static_cast<void>(run_layers(prepared.batch, prepared.sequence, &observer, false));
}

Tensor Decoder::logits(const Batch& batch) {
  const Prepared prepared = prepare(batch);
  const ResidualStream out = run_layers(prepared.batch, prepared.sequence, nullptr, false);
  const std::int64_t num_tokens = batch.num_tokens();
  const DType acc = accumulator_of(dtype_);
  TensorView xf = memory_.scratch.take(out.x.shape(), dtype_),
             inv_rms = memory_.scratch.take({num_tokens}, acc);
  final_norm(xf, inv_rms, out);
  TensorView values = memory_.scratch.take({num_tokens, config_.vocab_size}, dtype_);
  ops::linear_forward(values, xf, head_.value, {}, stream_);
  TensorView wide = memory_.scratch.take(values.shape(), acc);
  ops::cast(wide, values, stream_);
  return copied_to(Device::cpu, wide, stream_);
}

std::vector<double> Decoder::token_log_probs(const Batch& batch, ActivationObserver* observer) {
  const Prepared prepared = prepare(batch);
  const ResidualStream out = run_layers(prepared.batch, prepared.sequence, observer, false);
  const std::int64_t num_tokens = batch.num_tokens();
  const DType acc = accumulator_of(dtype_);
  TensorView xf = memory_.scratch.take(out.x.shape(), dtype_),
             inv_rms = memory_.scratch.take({num_tokens}, acc);
  TensorView losses = memory_.scratch.take({num_tokens}, acc);
  final_norm(xf, inv_rms, out);
  lm_head_loss(losses, {}, xf, head_, prepared.batch.labels, 0.0, memory_.scratch, stream_);
  const Tensor on_host = copied_to(Device::cpu, losses, stream_);
  std::vector<double> log_probs(static_cast<std::size_t>(num_tokens));
  for (std::int64_t t = 0; t < num_tokens; ++t) {
    log_probs[static_cast<std::size_t>(t)] =
        acc == DType::float64 ? -on_host.data<double>()[t] : -static_cast<double>(on_host.data<float>()[t]);
  }
  return log_probs;
}

}  // namespace nmoe::model
