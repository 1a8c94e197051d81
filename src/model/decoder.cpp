// Forward and backward over all layers.
#include "neuronmoe/model/decoder.hpp"

#include <algorithm>
#include <set>

#include "neuronmoe/model/lm_head.hpp"
#include "neuronmoe/ops/linear.hpp"
#include "neuronmoe/ops/transformer.hpp"

namespace nmoe::model {

namespace {

std::int64_t count_valid(ConstTensorView labels) {
  if (!labels) return 0;
  const auto* label = labels.data<std::int32_t>();
  return std::count_if(label, label + labels.num_elements(), [](std::int32_t l) { return l >= 0; });
}

std::int64_t count_set(ConstTensorView mask) {
  if (!mask) return 0;
  const auto* m = mask.data<std::uint8_t>();
  return std::count(m, m + mask.num_elements(), std::uint8_t{1});
}

double sum_in_order(ConstTensorView losses) {
  double sum = 0.0;
  for (std::int64_t t = 0; t < losses.num_elements(); ++t) {
    sum += losses.dtype() == DType::float64 ? losses.data<double>()[t]
                                            : static_cast<double>(losses.data<float>()[t]);
  }
  return sum;
}

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
      arena_(stream.device()),
      saved_(static_cast<std::size_t>(config_.num_layers)) {
  declare_parameters();
  bind_weights();
}

SequenceInfo Decoder::prepare(const Batch& batch) {
  arena_.reset();
  const std::int64_t num_tokens = batch.num_tokens();
  NMOE_CHECK(batch.ids.num_elements() == num_tokens, internal, "{} ids but offsets end at {}",
             batch.ids.num_elements(), num_tokens);
  TensorView positions = arena_.take({num_tokens}, DType::int32);
  std::int64_t longest = 1;
  for (std::size_t b = 0; b + 1 < batch.offsets.size(); ++b) {
    longest = std::max(longest, batch.offsets[b + 1] - batch.offsets[b]);
    for (std::int64_t t = batch.offsets[b]; t < batch.offsets[b + 1]; ++t) {
      positions.data<std::int32_t>()[t] = static_cast<std::int32_t>(t - batch.offsets[b]);
    }
  }
  rope_.reserve(longest);
  return {positions, batch.offsets, batch.row_sample};
}

void Decoder::layer_forward(int l, TensorView y, ConstTensorView x, const SequenceInfo& sequence,
                            ActivationObserver* observer) {
  const LayerWeights& w = layers_[static_cast<std::size_t>(l)];
  const LayerPlan& plan = plan_.layers[static_cast<std::size_t>(l)];
  LayerSaved& saved = saved_[static_cast<std::size_t>(l)];
  saved = LayerSaved{};
  const std::int64_t num_tokens = x.dim(0);
  saved.x_mid = arena_.take(x.shape(), dtype_);
  saved.inv_rms = arena_.take({num_tokens}, accumulator_of(dtype_));
  saved.hn = arena_.take(x.shape(), dtype_);
  AttentionLayer(l, config_)
      .forward(saved.x_mid, x, sequence, w.attention, saved.attention, rope_, plan, arena_, observer,
               stream_);
  ops::rms_norm_forward(saved.hn, saved.inv_rms, saved.x_mid, w.mlp_norm.value, config_.rms_norm_eps,
                        stream_);
  const auto offer = [&](Projection projection, ConstTensorView values) {
    const ActivationSite site{l, projection, -1};
    if (observer != nullptr && observer->wants(site)) observer->observe(site, values, sequence.row_sample);
  };
  offer(Projection::mlp_input, saved.hn);
  if (config_.is_moe(l)) {
    MoeLayer(l, config_, group_)
        .forward(y, saved.hn, sequence.row_sample, w.moe, saved.moe, arena_, observer, stream_);
  } else {
    const Shape wide{num_tokens, config_.intermediate_size};
    saved.mlp = {saved.hn, arena_.take(wide, dtype_), arena_.take(wide, dtype_)};
    const Arena::Mark scratch = arena_.mark();
    feed_forward_forward(y, saved.mlp, arena_.take(wide, dtype_), w.mlp, stream_);
    arena_.rewind(scratch);
    offer(Projection::gate, saved.mlp.gate);
    offer(Projection::up, saved.mlp.up);
    offer(Projection::down, y);
  }
  ops::add_inplace(y, saved.x_mid, stream_);
}

ConstTensorView Decoder::run_layers(const Batch& batch, const SequenceInfo& sequence,
                                    ActivationObserver* observer, bool training) {
  const Shape shape{batch.num_tokens(), config_.hidden_size};
  TensorView x = arena_.take(shape, dtype_), other = arena_.take(shape, dtype_);
  ops::embedding_forward(x, batch.ids, embedding_.value, stream_);
  for (int l = 0; l < config_.num_layers; ++l) {
    if (training && l >= plan_.lowest_layer) {
      TensorView y = arena_.take(shape, dtype_);
      layer_forward(l, y, x, sequence, observer);
      x = y;
    } else {  // nothing of this layer is read again: its memory is used for the next one
      const Arena::Mark mark = arena_.mark();
      layer_forward(l, other, x, sequence, observer);
      arena_.rewind(mark);
      std::swap(x, other);
    }
  }
  return x;
}

double Decoder::lpr_mean_denominator(int l, bool by_expert_count, std::int64_t num_old) const {
  if (num_old == 0) return 0.0;
  if (!by_expert_count) return static_cast<double>(config_.num_moe_layers()) * static_cast<double>(num_old);
  std::set<int> groups;
  int layers_in_group = 0;
  for (int other = 0; other < config_.num_layers; ++other) {
    const int e = config_.num_experts[static_cast<std::size_t>(other)];
    if (e > 1) groups.insert(e);
    if (e == config_.num_experts[static_cast<std::size_t>(l)]) ++layers_in_group;
  }
  return static_cast<double>(groups.size()) * layers_in_group * static_cast<double>(num_old);
}

std::vector<double> Decoder::balancing_statistics(const Batch& batch) {
  std::size_t size = 1;
  for (int l = 0; l < config_.num_layers; ++l) {
    if (config_.is_moe(l))
      size += 2 * static_cast<std::size_t>(config_.num_experts[static_cast<std::size_t>(l)]);
  }
  std::vector<double> statistics(size);
  double* next = statistics.data();
  for (int l = 0; l < config_.num_layers; ++l) {
    if (!config_.is_moe(l)) continue;
    const std::int64_t experts = config_.num_experts[static_cast<std::size_t>(l)];
    MoeLayer(l, config_, group_)
        .statistics({next, DType::float64, {experts}}, {next + experts, DType::float64, {experts}},
                    saved_[static_cast<std::size_t>(l)].moe, stream_);
    next += 2 * experts;
  }
  *next = static_cast<double>(batch.num_tokens());
  return statistics;
}

AuxLossScales Decoder::layer_scales(int l, const LossScales& scales, std::int64_t num_old,
                                    const std::vector<double>& statistics) const {
  AuxLossScales layer;
  if (!config_.is_moe(l)) return layer;
  layer.balancing = scales.balancing / config_.num_moe_layers();
  const double denominator = lpr_mean_denominator(l, scales.lpr_by_expert_count, num_old);
  layer.lpr = denominator > 0.0 ? scales.lpr / denominator : 0.0;
  layer.lpr_form = scales.lpr_form;
  if (statistics.empty()) return layer;
  std::int64_t at = 0;
  for (int below = 0; below < l; ++below) {
    if (config_.is_moe(below)) at += 2 * config_.num_experts[static_cast<std::size_t>(below)];
  }
  const std::int64_t experts = config_.num_experts[static_cast<std::size_t>(l)];
  layer.choice_counts = {statistics.data() + at, DType::float64, {experts}};
  layer.prob_sums = {statistics.data() + at + experts, DType::float64, {experts}};
  layer.num_tokens = statistics.back();
  return layer;
}

void Decoder::layer_backward(int l, TensorView dx, const SequenceInfo& sequence, const Batch& batch,
                             const AuxLossScales& scales, AuxLosses& losses) {
  const LayerWeights& w = layers_[static_cast<std::size_t>(l)];
  const LayerPlan& plan = plan_.layers[static_cast<std::size_t>(l)];
  LayerSaved& saved = saved_[static_cast<std::size_t>(l)];
  const Arena::Mark scratch = arena_.mark();
  TensorView dhn = plan.mlp_input ? arena_.take(dx.shape(), dtype_) : TensorView();
  if (config_.is_moe(l)) {
    losses = MoeLayer(l, config_, group_)
                 .backward(dhn, dx, batch.old_mask, w.moe, saved.moe, scales, plan, arena_, stream_);
  } else if (plan.mlp_input || plan.base_mlp_weights) {
    const Shape wide{dx.dim(0), config_.intermediate_size};
    const FeedForwardScratch buffers{arena_.take(wide, dtype_), arena_.take(wide, dtype_),
                                     arena_.take(wide, dtype_), arena_.take(wide, dtype_)};
    feed_forward_backward(dhn, false, dx, saved.mlp, buffers, w.mlp, stream_);
  }
  if (plan.mlp_input) {
    ops::rms_norm_backward(dx, w.mlp_norm.grad, dhn, saved.x_mid, w.mlp_norm.value, saved.inv_rms, true,
                           stream_);
  }
  arena_.rewind(scratch);
  if (plan.layer_input || plan.attention_weights) {
    AttentionLayer(l, config_)
        .backward(dx, sequence, w.attention, saved.attention, rope_, plan, arena_, stream_);
  }
}

Losses Decoder::forward_backward(const Batch& batch, const LossScales& scales,
                                 const StatisticsSum& sum_statistics) {
  const SequenceInfo sequence = prepare(batch);
  const ConstTensorView x = run_layers(batch, sequence, nullptr, true);
  std::vector<double> statistics;
  if (sum_statistics) {
    statistics = balancing_statistics(batch);
    sum_statistics(statistics);
  }
  const std::int64_t num_tokens = batch.num_tokens();
  const DType acc = accumulator_of(dtype_);
  TensorView xf = arena_.take(x.shape(), dtype_), inv_rms = arena_.take({num_tokens}, acc);
  TensorView token_losses = arena_.take({num_tokens}, acc), dxf = arena_.take(x.shape(), dtype_);
  ops::rms_norm_forward(xf, inv_rms, x, final_norm_.value, config_.rms_norm_eps, stream_);
  ops::fill(dxf, 0.0, stream_);
  lm_head_loss(token_losses, dxf, xf, head_, batch.labels, scales.lm, arena_, stream_);

  Losses losses;
  losses.lm_sum = sum_in_order(token_losses);
  losses.num_labels = count_valid(batch.labels);
  const std::int64_t num_old = count_set(batch.old_mask);
  TensorView dx = arena_.take(x.shape(), dtype_);
  ops::rms_norm_backward(dx, final_norm_.grad, dxf, x, final_norm_.value, inv_rms, false, stream_);
  for (int l = config_.num_layers - 1; l >= plan_.lowest_layer; --l) {
    AuxLosses aux;
    layer_backward(l, dx, sequence, batch, layer_scales(l, scales, num_old, statistics), aux);
    if (!config_.is_moe(l)) continue;
    losses.balancing += aux.balancing / config_.num_moe_layers();
    const double denominator = lpr_mean_denominator(l, scales.lpr_by_expert_count, num_old);
    if (denominator > 0.0) losses.lpr += aux.lpr_sum / denominator;
  }
  if (plan_.embedding) ops::embedding_backward(embedding_.grad, dx, batch.ids, stream_);
  return losses;
}

void Decoder::observe(const Batch& batch, ActivationObserver& observer) {
  static_cast<void>(run_layers(batch, prepare(batch), &observer, false));
}

Tensor Decoder::logits(const Batch& batch) {
  const ConstTensorView x = run_layers(batch, prepare(batch), nullptr, false);
  const std::int64_t num_tokens = batch.num_tokens();
  const DType acc = accumulator_of(dtype_);
  TensorView xf = arena_.take(x.shape(), dtype_), inv_rms = arena_.take({num_tokens}, acc);
  ops::rms_norm_forward(xf, inv_rms, x, final_norm_.value, config_.rms_norm_eps, stream_);
  TensorView values = arena_.take({num_tokens, config_.vocab_size}, dtype_);
  ops::linear_forward(values, xf, head_.value, {}, stream_);
  Tensor logits(values.shape(), acc);
  ops::cast(logits.view(), values, stream_);
  return logits;
}

std::vector<double> Decoder::token_log_probs(const Batch& batch, ActivationObserver* observer) {
  const ConstTensorView x = run_layers(batch, prepare(batch), observer, false);
  const std::int64_t num_tokens = batch.num_tokens();
  const DType acc = accumulator_of(dtype_);
  TensorView xf = arena_.take(x.shape(), dtype_), inv_rms = arena_.take({num_tokens}, acc);
  TensorView losses = arena_.take({num_tokens}, acc);
  ops::rms_norm_forward(xf, inv_rms, x, final_norm_.value, config_.rms_norm_eps, stream_);
  lm_head_loss(losses, {}, xf, head_, batch.labels, 0.0, arena_, stream_);
  std::vector<double> log_probs(static_cast<std::size_t>(num_tokens));
  for (std::int64_t t = 0; t < num_tokens; ++t) {
    log_probs[static_cast<std::size_t>(t)] =
        acc == DType::float64 ? -losses.data<double>()[t] : -static_cast<double>(losses.data<float>()[t]);
  }
  return log_probs;
}

}  // namespace nmoe::model
