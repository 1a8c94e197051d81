// What a forward pass says about tokens: logits, and log-probabilities of labels.
#include <map>

#include "decoder_buffers.hpp"
#include "neuronmoe/model/decoder.hpp"
#include "neuronmoe/model/lm_head.hpp"
#include "neuronmoe/ops/linear.hpp"
#include "neuronmoe/ops/moe.hpp"
#include "neuronmoe/ops/transformer.hpp"
#include "neuronmoe/tensor/device.hpp"

namespace nmoe::model {

namespace {

/// What lm_head_loss gives as a loss, in host memory and any accumulator type, as a log-probability.
double log_prob_of(ConstTensorView losses, std::int64_t t) {
  return losses.dtype() == DType::float64 ? -losses.data<double>()[t]
                                          : -static_cast<double>(losses.data<float>()[t]);
}

}  // namespace

Tensor Decoder::logits(const Batch& batch) {
  const Prepared prepared = prepare(batch);
  const ResidualStream out = run_layers(prepared.batch, {prepared.sequence});
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

Tensor Decoder::next_logits(std::span<const std::int32_t> ids, KeyValueCache& cache) {
  const auto count = static_cast<std::int64_t>(ids.size());
  NMOE_CHECK(cache.length() + count <= cache.capacity(), internal, "{} tokens behind {} in a cache of {}",
             count, cache.length(), cache.capacity());
  BatchBuilder builder;
  if (!ids.empty()) builder.add(ids, {}, {});
  const Batch batch = builder.batch();  // its offsets are read during the pass
  Prepared prepared = prepare(batch, cache.length());
  if (!ids.empty()) prepared.sequence.cache = &cache;
  const ResidualStream out = run_layers(prepared.batch, {prepared.sequence});
  cache.advance(count);
  if (ids.empty()) return {};
  const DType acc = accumulator_of(dtype_);
  const TensorView xf = memory_.scratch.take(out.x.shape(), dtype_),
                   inv_rms = memory_.scratch.take({count}, acc);
  final_norm(xf, inv_rms, out);
  const TensorView values = memory_.scratch.take({1, config_.vocab_size}, dtype_);
  ops::linear_forward(values, xf.rows(count - 1, 1), head_.value, {}, stream_);
  const TensorView wide = memory_.scratch.take(values.shape(), acc);
  ops::cast(wide, values, stream_);
  return copied_to(Device::cpu, wide, stream_);
}

std::vector<double> Decoder::token_log_probs(const Batch& batch, ActivationObserver* observer) {
  const Prepared prepared = prepare(batch);
  const ResidualStream out = run_layers(prepared.batch, {prepared.sequence, observer});
  const std::int64_t num_tokens = batch.num_tokens();
  const DType acc = accumulator_of(dtype_);
  TensorView xf = memory_.scratch.take(out.x.shape(), dtype_),
             inv_rms = memory_.scratch.take({num_tokens}, acc);
  TensorView losses = memory_.scratch.take({num_tokens}, acc);
  final_norm(xf, inv_rms, out);
  const auto [logits] = take_buffers<LmHeadScratch>(memory_, num_tokens, config_.vocab_size, dtype_);
  lm_head_loss(losses, {}, {xf, prepared.batch.labels}, head_, logits, stream_);
  const Tensor on_host = copied_to(Device::cpu, losses, stream_);
  std::vector<double> log_probs(static_cast<std::size_t>(num_tokens));
  for (std::int64_t t = 0; t < num_tokens; ++t)
    log_probs[static_cast<std::size_t>(t)] = log_prob_of(on_host.view(), t);
  return log_probs;
}

std::vector<LabelScore> Decoder::label_scores(const Batch& batch, std::span<const LabelAt> labels,
                                              ActivationObserver* observer) {
  const Prepared prepared = prepare(batch);
  return score_labels(run_layers(prepared.batch, {prepared.sequence, observer}), labels);
}

std::vector<LabelScore> Decoder::score_labels(const ResidualStream& out, std::span<const LabelAt> labels) {
  const std::int64_t num_tokens = out.x.dim(0);
  const auto count = static_cast<std::int64_t>(labels.size());
  std::vector<std::int32_t> tokens, wanted;
  for (const LabelAt& at : labels) {
    NMOE_CHECK(at.token >= 0 && at.token < num_tokens, internal, "a label at token {} of {}", at.token,
               num_tokens);
    NMOE_CHECK(at.label >= 0 && at.label < config_.vocab_size, bad_data, "label {} is outside [0, {}]",
               at.label, config_.vocab_size - 1);
    tokens.push_back(at.token);
    wanted.push_back(at.label);
  }
  const auto on_device = [&](const std::vector<std::int32_t>& values) {
    const TensorView view = memory_.scratch.take({count}, DType::int32);
    copy(view, ConstTensorView(values.data(), DType::int32, {count}), stream_);
    return view;
  };
  const DType acc = accumulator_of(dtype_);
  const TensorView xf = memory_.scratch.take(out.x.shape(), dtype_),
                   inv_rms = memory_.scratch.take({num_tokens}, acc);
  final_norm(xf, inv_rms, out);
  const TensorView x = memory_.scratch.take({count, config_.hidden_size}, dtype_);
  ops::gather_rows(x, xf, on_device(tokens), stream_);
  const TensorView losses = memory_.scratch.take({count}, acc),
                   best = memory_.scratch.take({count}, DType::int32);
  const auto [logits] = take_buffers<LmHeadScratch>(memory_, count, config_.vocab_size, dtype_);
  lm_head_scores(losses, best, {x, on_device(wanted)}, head_, logits, stream_);
  const Tensor losses_there = copied_to(Device::cpu, losses, stream_),
               best_there = copied_to(Device::cpu, best, stream_);
  std::vector<LabelScore> scores;
  for (std::int64_t i = 0; i < count; ++i)
    scores.push_back({log_prob_of(losses_there.view(), i),
                      best_there.data<std::int32_t>()[i] == wanted[static_cast<std::size_t>(i)]});
  return scores;
}

std::vector<std::vector<LabelScore>> Decoder::label_scores_of_each(
    const Batch& batch, std::span<const LabelAt> labels, std::span<const Intervention> interventions,
    ActivationObserver* observer, const std::function<void()>& after_each) {
  NMOE_CHECK(intervention_ == nullptr, internal, "interventions beside one from layer {} on",
             intervention_->first_layer());
  const Prepared prepared = prepare(batch);
  const auto take_stream = [&] {
    return take_buffers<StreamBuffer>(memory_, FrameSizes{config_, batch.num_tokens(), dtype_}).x;
  };
  struct Entering {
    TensorView x, pending;
    bool has_pending = false;
  };
  std::map<int, Entering> entering;  // the untouched pass's stream where an intervention begins
  for (const Intervention& one : interventions)
    if (one.first_layer() < config_.num_layers) entering[one.first_layer()] = {};
  for (auto& [layer, stream] : entering) stream = {take_stream(), take_stream()};
  const Arena::Mark mark = memory_.saved.mark();
  const auto keep = [&](int layer, const ResidualStream& in) {
    const auto kept = entering.find(layer);
    if (kept == entering.end()) return;
    copy(kept->second.x, in.x, stream_);
    kept->second.has_pending = bool(in.pending);
    if (in.pending) copy(kept->second.pending, in.pending, stream_);
  };
  const auto score = [&](const ResidualStream& out) {
    const ScratchScope scope(memory_.scratch);
    return score_labels(out, labels);
  };
  std::vector<std::vector<LabelScore>> scores;
  scores.push_back(score(run_layers(prepared.batch, {prepared.sequence, observer, false, keep})));
  struct Reset {
    const Intervention*& slot;
    ~Reset() { slot = nullptr; }
  } const reset{intervention_};
  for (const Intervention& one : interventions) {
    if (after_each) after_each();
    const int first = one.first_layer();
    if (first == config_.num_layers) {
      scores.push_back(scores.front());
      continue;
    }
    memory_.saved.rewind(mark);
    intervention_ = &one;
    const Entering& from = entering[first];
    const TensorView x = take_stream(), pending = take_stream();
    copy(x, from.x, stream_);
    if (from.has_pending) copy(pending, from.pending, stream_);
    const ResidualStream in{x, from.has_pending ? ConstTensorView(pending) : ConstTensorView()};
    scores.push_back(score(run_layers_from(first, in, take_stream(), {prepared.sequence})));
  }
  return scores;
}

}  // namespace nmoe::model
