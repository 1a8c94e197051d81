// What a kind of run trains, and with which losses.
#include "neuronmoe/train/run_kind.hpp"

namespace nmoe::train {

model::TrainableSet trainables_of(RunKind kind) {
  switch (kind) {
    case RunKind::pretrain:
      return model::TrainableSet::all;
    case RunKind::stage1:
      return model::TrainableSet::experts_and_routers;
    case RunKind::stage2:
      return model::TrainableSet::routers;
  }
  return model::TrainableSet::none;
}

model::LossScales auxiliary_scales(RunKind kind, const TrainConfig& c) {
  const double per_micro_batch = 1.0 / static_cast<double>(c.global_batch_size / c.micro_batch_size);
  model::LossScales scales;
  if (kind == RunKind::stage1) {
    scales.balancing = c.router_aux_loss_coef * (global_balancing(kind, c) ? 1.0 : per_micro_batch);
  }
  if (kind == RunKind::stage2 && c.lpr_form != LprLoss::off) {
    scales.lpr = c.lpr_loss_coef * per_micro_batch;
    scales.lpr_form = c.lpr_form == LprLoss::nll ? ops::LprForm::nll : ops::LprForm::double_softmax;
    scales.lpr_by_expert_count = c.lpr_layer_mean == LayerMean::by_expert_count;
  }
  return scales;
}

bool global_balancing(RunKind kind, const TrainConfig& config) {
  return kind == RunKind::stage1 && config.lbl_scope == BalancingScope::global;
}

}  // namespace nmoe::train
