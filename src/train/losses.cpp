// Scales of the auxiliary losses.
#include "neuronmoe/train/losses.hpp"

namespace nmoe::train {

model::LossScales auxiliary_scales(RunKind kind, const TrainConfig& config) {
  const double per_micro_batch =
      1.0 / static_cast<double>(config.global_batch_size / config.micro_batch_size);
  model::LossScales scales;
  for_each_coefficient(config, [&](double model::LossScales::*scale, RunKind of, double coefficient) {
    const bool whole_step = scale == &model::LossScales::balancing && global_balancing(kind, config);
    if (kind == of) scales.*scale = coefficient * (whole_step ? 1.0 : per_micro_batch);
  });
  scales.lpr_form = config.lpr_form == LprLoss::nll ? ops::LprForm::nll : ops::LprForm::double_softmax;
  scales.lpr_by_expert_count = config.lpr_layer_mean == LayerMean::by_expert_count;
  return scales;
}

bool global_balancing(RunKind kind, const TrainConfig& config) {
  return kind == RunKind::stage1 && config.lbl_scope == BalancingScope::global;
}

}  // namespace nmoe::train
