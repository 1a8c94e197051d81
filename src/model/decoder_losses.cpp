// Losses of a micro-batch: scales and statistics of the auxiliary ones, and how all of them are read.
#include <algorithm>

#include "decoder_buffers.hpp"
#include "neuronmoe/model/decoder.hpp"
#include "neuronmoe/tensor/device.hpp"

namespace nmoe::model {

namespace {

std::int64_t count_valid(ConstTensorView labels) {
  if (!labels) return 0;
  const auto* label = labels.data<std::int32_t>();
  return std::count_if(label, label + labels.num_elements(), [](std::int32_t l) { return l >= 0; });
}

double sum_in_order(const Tensor& on_host) {
  const ConstTensorView losses = on_host.view();
  double sum = 0.0;
  for (std::int64_t t = 0; t < losses.num_elements(); ++t) {
    sum += losses.dtype() == DType::float64 ? losses.data<double>()[t]
                                            : static_cast<double>(losses.data<float>()[t]);
  }
  return sum;
}

}  // namespace

std::vector<double> Decoder::balancing_statistics(const Batch& batch) {
  const ScratchScope scope(memory_.scratch);
  const auto [all] =
      take_buffers<BalancingStatistics>(memory_, FrameSizes{config_, batch.num_tokens(), dtype_});
  std::int64_t next = 0;
  for (int l = 0; l < config_.num_layers; ++l) {
    if (!config_.is_moe(l)) continue;
    const std::int64_t experts = config_.num_experts[static_cast<std::size_t>(l)];
    const RouterSaved& saved = saved_[static_cast<std::size_t>(l)].moe.router;
    ops::balancing_statistics(all.rows(next, experts), all.rows(next + experts, experts), saved.probs,
                              saved.indices, stream_);
    next += 2 * experts;
  }
  std::vector<double> statistics(static_cast<std::size_t>(next) + 1);
  copy(TensorView(statistics.data(), DType::float64, {next}), all, stream_);
  statistics.back() = static_cast<double>(batch.num_tokens());
  return statistics;
}

RouterLosses Decoder::router_losses(int l, const AuxiliaryInput& input) const {
  RouterLosses losses{
      input.scales, input.values.rows(l, 1).reshape({num_auxiliary_losses, 1}), input.old_mask, {}, {}};
  for (const AuxiliaryLoss& loss : auxiliary_losses) {
    double& scale = losses.scales.*loss.scale;
    const double divisor = config_.is_moe(l) ? loss.divisor(config_, l, input.scales, input.num_old) : 0.0;
    scale = divisor > 0.0 ? scale / divisor : 0.0;
  }
  if (input.statistics.empty() || !config_.is_moe(l)) return losses;
  std::int64_t at = 0;
  for (int below = 0; below < l; ++below) {
    if (config_.is_moe(below)) at += 2 * config_.num_experts[static_cast<std::size_t>(below)];
  }
  const std::int64_t experts = config_.num_experts[static_cast<std::size_t>(l)];
  losses.choice_counts = {input.statistics.data() + at, DType::float64, {experts}};
  losses.prob_sums = {input.statistics.data() + at + experts, DType::float64, {experts}};
  losses.num_tokens = input.statistics.back();
  return losses;
}

Losses Decoder::read_losses(ConstTensorView token_losses, const AuxiliaryInput& input,
                            const Batch& host_batch) {
  Losses losses;
  losses.lm_sum = sum_in_order(copied_to(Device::cpu, token_losses, stream_));
  losses.num_labels = count_valid(host_batch.labels);
  const Tensor computed = copied_to(Device::cpu, input.values, stream_);
  for (int l = config_.num_layers - 1; l >= plan_.lowest_layer; --l) {
    if (!config_.is_moe(l)) continue;
    const RouterLosses of_layer = router_losses(l, input);
    const double* value = computed.data<double>() + std::int64_t{l} * num_auxiliary_losses;
    for (const AuxiliaryLoss& loss : auxiliary_losses) {
      const double divisor = loss.divisor(config_, l, input.scales, input.num_old);
      const double found = loss.known != nullptr ? loss.known(of_layer, *value) : *value;
      if (divisor > 0.0) losses.*loss.value += found / divisor;
      ++value;
    }
  }
  return losses;
}

}  // namespace nmoe::model
