// What a forward pass says about tokens: logits, and log-probabilities of labels.
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

Tensor Decoder::next_logits(std::span<const std::int32_t> ids, KeyValueCache& cache) {
  const auto count = static_cast<std::int64_t>(ids.size());
  NMOE_CHECK(cache.length() + count <= cache.capacity(), internal, "{} tokens behind {} in a cache of {}",
             count, cache.length(), cache.capacity());
  BatchBuilder builder;
  if (!ids.empty()) builder.add(ids, {}, {});
  const Batch batch = builder.batch();  // its offsets are read during the pass
  Prepared prepared = prepare(batch, cache.length());
  if (!ids.empty()) prepared.sequence.cache = &cache;
  const ResidualStream out = run_layers(prepared.batch, prepared.sequence, nullptr, false);
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
  const ResidualStream out = run_layers(prepared.batch, prepared.sequence, observer, false);
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
  const ResidualStream out = run_layers(prepared.batch, prepared.sequence, observer, false);
  const auto count = static_cast<std::int64_t>(labels.size());
  std::vector<std::int32_t> tokens, wanted;
  for (const LabelAt& at : labels) {
    NMOE_CHECK(at.token >= 0 && at.token < batch.num_tokens(), internal, "a label at token {} of {}",
               at.token, batch.num_tokens());
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
                   inv_rms = memory_.scratch.take({batch.num_tokens()}, acc);
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

}  // namespace nmoe::model
