// Losses of a micro-batch: scales and statistics of the auxiliary ones, and how all of them are read.
#include <algorithm>
#include <set>

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
  const auto total = static_cast<std::int64_t>(size) - 1;
  const ScratchScope scope(memory_.scratch);
  const TensorView all = memory_.scratch.take({total}, DType::float64);
  std::int64_t next = 0;
  for (int l = 0; l < config_.num_layers; ++l) {
    if (!config_.is_moe(l)) continue;
    const std::int64_t experts = config_.num_experts[static_cast<std::size_t>(l)];
    MoeLayer(l, config_, group_)
        .statistics(all.rows(next, experts), all.rows(next + experts, experts),
                    saved_[static_cast<std::size_t>(l)].moe, stream_);
    next += 2 * experts;
  }
  copy(TensorView(statistics.data(), DType::float64, {total}), all, stream_);
  statistics.back() = static_cast<double>(batch.num_tokens());
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

Losses Decoder::read_losses(ConstTensorView token_losses, ConstTensorView aux_losses, const Batch& host_batch,
                            const LossScales& scales, const std::vector<double>& statistics) {
  const std::int64_t num_old = count_old(host_batch);
  Losses losses;
  losses.lm_sum = sum_in_order(copied_to(Device::cpu, token_losses, stream_));
  losses.num_labels = count_valid(host_batch.labels);
  const Tensor aux = copied_to(Device::cpu, aux_losses, stream_);
  for (int l = config_.num_layers - 1; l >= plan_.lowest_layer; --l) {
    if (!config_.is_moe(l)) continue;
    const AuxLossScales layer = layer_scales(l, scales, num_old, statistics);
    const double* of_layer = aux.data<double>() + 2 * std::int64_t{l};
    const double balancing =
        layer.balancing != 0.0 && layer.choice_counts
            ? ops::balancing_loss_of(layer.choice_counts, layer.prob_sums, layer.num_tokens)
            : of_layer[0];
    losses.balancing += balancing / config_.num_moe_layers();
    const double denominator = lpr_mean_denominator(l, scales.lpr_by_expert_count, num_old);
    if (denominator > 0.0) losses.lpr += of_layer[1] / denominator;
  }
  return losses;
}

}  // namespace nmoe::model
