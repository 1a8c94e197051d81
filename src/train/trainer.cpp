// The training loop and its step: micro-batches, losses, reduction, update.
#include "neuronmoe/train/trainer.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "neuronmoe/base/divisor.hpp"
#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/io/atomic_file.hpp"
#include "neuronmoe/train/idle_ranks.hpp"
#include "neuronmoe/train/losses.hpp"
#include "neuronmoe/train/schedule.hpp"
#include "run_record.hpp"

namespace nmoe::train {

namespace {

/// The step's sum over micro-batches in the one shape of DESIGN 6.
double tree_sum(const std::vector<double>& values) {
  comm::BinaryCounterSum<double> sum;
  const auto add = [](double& a, double& b) { a += b; };
  for (const double value : values) sum.push(value, add);
  return values.empty() ? 0.0 : sum.finish(add);
}

}  // namespace

struct Trainer::StepBatch {
  std::vector<model::BatchBuilder>
      micro_batches;                 // one per micro-step; without tokens where this rank has none
  std::vector<std::int64_t> labels;  // valid labels of each

  void fill(const data::Mixture& mixture, std::int64_t step, const TrainConfig& config,
            const comm::ParallelLayout& layout, std::int64_t num_micro_batches) {
    const std::int64_t steps = comm::num_micro_steps(num_micro_batches, layout.world_size());
    micro_batches.resize(static_cast<std::size_t>(steps));
    labels.assign(static_cast<std::size_t>(steps), 0);
    for (std::int64_t micro_step = 0; micro_step < steps; ++micro_step) {
      const auto at = static_cast<std::size_t>(micro_step);
      micro_batches[at].clear();
      const std::int64_t m =
          comm::micro_batch_of(micro_step, layout.rank(), layout.world_size(), num_micro_batches);
      for (std::int64_t i = 0; m >= 0 && i < config.micro_batch_size; ++i) {
        const std::int64_t position = step * config.global_batch_size + m * config.micro_batch_size + i;
        const data::Sample sample = mixture.sample(static_cast<std::uint64_t>(position));
        micro_batches[at].add(sample.ids, sample.labels, sample.old_mask);
        labels[at] +=
            std::count_if(sample.labels.begin(), sample.labels.end(), [](std::int32_t l) { return l >= 0; });
      }
    }
  }
};

Trainer::Trainer(const comm::ExecutionContext& context, const TrainRun& run, const ParallelGroups& groups,
                 model::Decoder& decoder, const data::Mixture& mixture)
    : context_(context),
      run_(run),
      groups_(groups),
      decoder_(decoder),
      mixture_(mixture),
      optimizer_(decoder, groups.layout, context.world, *groups.expert_data_parallel,
                 reduce_options(run.config, context.world.size())) {
  const TrainConfig& c = run.config;
  NMOE_CHECK(
      c.global_batch_size % c.micro_batch_size == 0, config,
      "train.micro_batch_size = {} does not divide train.global_batch_size = {}; the nearest that does is {}",
      c.micro_batch_size, c.global_batch_size, nearest_divisor(c.global_batch_size, c.micro_batch_size));
  num_micro_batches_ = c.global_batch_size / c.micro_batch_size;
  NMOE_CHECK(
      !global_balancing(run.kind, c) || num_micro_batches_ <= context.world.size(), config,
      "lbl.scope = global needs all {} micro-batches of a step at once, there are {} ranks; run on {} ranks, "
      "enlarge train.micro_batch_size or set lbl.scope = local",
      num_micro_batches_, context.world.size(), num_micro_batches_);
  origin_ = run.identity.origin;
  progress_.seed = c.seed;
  progress_.cursors = mixture.cursors(0);
}

Trainer::StepAgreement Trainer::agree_on_step(const StepBatch& batch) {
  std::int64_t facts[2] = {0, context_.heartbeat.stop_requested.load() ? 1 : 0};
  for (const std::int64_t n : batch.labels) facts[0] += n;
  context_.world.all_reduce({facts, DType::int64, {2}}, comm::ReduceOp::sum, context_.stream).wait();
  return {facts[0], facts[1] > 0};
}

model::LossScales Trainer::loss_scales(std::int64_t global_labels, std::int64_t micro_batch_labels) const {
  const TrainConfig& c = run_.config;
  model::LossScales scales = auxiliary_scales(run_.kind, c);
  if (c.loss_norm == LossNorm::microbatch_mean) {
    const double per_micro_batch = 1.0 / static_cast<double>(num_micro_batches_);
    scales.lm = micro_batch_labels > 0 ? per_micro_batch / static_cast<double>(micro_batch_labels) : 0.0;
  } else {
    scales.lm = global_labels > 0 ? 1.0 / static_cast<double>(global_labels) : 0.0;
  }
  return scales;
}

void Trainer::sum_statistics(std::span<double> statistics) {
  const auto size = static_cast<std::int64_t>(statistics.size());
  std::vector<double> all(static_cast<std::size_t>(num_micro_batches_ * size), 0.0);
  const std::int64_t m =
      comm::micro_batch_of(0, groups_.layout.rank(), groups_.layout.world_size(), num_micro_batches_);
  if (m >= 0) std::copy(statistics.begin(), statistics.end(), all.begin() + m * size);
  context_.world
      .all_reduce({all.data(), DType::float64, {static_cast<std::int64_t>(all.size())}}, comm::ReduceOp::sum,
                  context_.stream)
      .wait();
  for (std::int64_t i = 0; i < size; ++i) {
    std::vector<double> terms;
    for (std::int64_t at = i; at < num_micro_batches_ * size; at += size)
      terms.push_back(all[static_cast<std::size_t>(at)]);
    statistics[static_cast<std::size_t>(i)] = tree_sum(terms);
  }
}

void Trainer::reduce_losses(std::vector<double>& values, const StepAgreement& agreed, StepMetrics& metrics) {
  context_.world
      .all_reduce({values.data(), DType::float64, {static_cast<std::int64_t>(values.size())}},
                  comm::ReduceOp::sum, context_.stream)
      .wait();
  const auto column = [&](int slot) {
    std::vector<double> of_slot;
    for (auto at = static_cast<std::size_t>(slot); at < values.size(); at += LossSlots::count)
      of_slot.push_back(values[at]);
    return of_slot;
  };
  const double per_micro_batch = 1.0 / static_cast<double>(num_micro_batches_);
  if (run_.config.loss_norm == LossNorm::microbatch_mean) {
    std::vector<double> means = column(LossSlots::lm_sum);
    const std::vector<double> counts = column(LossSlots::num_labels);
    for (std::size_t m = 0; m < means.size(); ++m) means[m] = counts[m] > 0 ? means[m] / counts[m] : 0.0;
    metrics.loss_lm = tree_sum(means) * per_micro_batch;
  } else {
    metrics.loss_lm = agreed.num_labels > 0
                          ? tree_sum(column(LossSlots::lm_sum)) / static_cast<double>(agreed.num_labels)
                          : 0.0;
  }
  for (int i = 0; i < model::num_auxiliary_losses; ++i) {
    metrics.auxiliary[static_cast<std::size_t>(i)] =
        tree_sum(column(LossSlots::first_auxiliary + i)) * per_micro_batch;
  }
}

StepMetrics Trainer::train_step(const StepBatch& batch, const StepAgreement& agreed) {
  const TrainConfig& c = run_.config;
  StepMetrics metrics;
  std::vector<double> losses(static_cast<std::size_t>(num_micro_batches_ * LossSlots::count), 0.0);
  const auto num_steps = static_cast<std::int64_t>(batch.micro_batches.size());
  const model::StatisticsSum statistics = [this](std::span<double> values) { sum_statistics(values); };
  for (std::int64_t micro_step = 0; micro_step < num_steps; ++micro_step) {
    const auto at = static_cast<std::size_t>(micro_step);
    optimizer_.begin_micro_step(micro_step, num_micro_batches_);
    const model::Losses result = decoder_.forward_backward(
        batch.micro_batches[at].batch(), loss_scales(agreed.num_labels, batch.labels[at]),
        global_balancing(run_.kind, c) ? statistics : nullptr);
    context_.heartbeat.beat();
    const std::int64_t m = comm::micro_batch_of(micro_step, groups_.layout.rank(),
                                                groups_.layout.world_size(), num_micro_batches_);
    if (m < 0) continue;
    double* slots = losses.data() + m * LossSlots::count;
    slots[LossSlots::lm_sum] = result.lm_sum;
    slots[LossSlots::num_labels] = static_cast<double>(result.num_labels);
    for (int i = 0; i < model::num_auxiliary_losses; ++i)
      slots[LossSlots::first_auxiliary + i] = result.*model::auxiliary_losses[i].value;
  }
  reduce_losses(losses, agreed, metrics);
  metrics.no_label = agreed.num_labels == 0;
  metrics.grad_norm = optimizer_.finish_reduction(context_.stream);
  metrics.learning_rate =
      cosine_learning_rate(c.learning_rate, c.min_lr_ratio, c.warmup_steps, c.steps, progress_.step);
  metrics.skipped = !std::isfinite(metrics.grad_norm) || !std::isfinite(metrics.loss_lm);
  if (!metrics.skipped) {  // the norm has the same bits on every rank, and so has this decision
    const double clip =
        c.max_grad_norm > 0 ? std::min(1.0, c.max_grad_norm / (metrics.grad_norm + 1e-6)) : 1.0;
    ++progress_.optimizer_steps;
    optimizer_.update(
        {metrics.learning_rate, c.beta1, c.beta2, c.eps, c.weight_decay, progress_.optimizer_steps, clip},
        context_.stream);
  }
  return metrics;
}

PlanInput Trainer::plan_input() const {
  return {decoder_.config(), run_.kind, run_.config, context_.world.size(), run_.placed_by};
}

void Trainer::advance(StepMetrics& metrics) {
  const TrainConfig& c = run_.config;
  ++progress_.step;
  progress_.samples_seen += c.global_batch_size;
  progress_.tokens_seen += c.global_batch_size * c.seq_length;
  progress_.learning_rate = metrics.learning_rate;
  progress_.nan_steps_in_a_row = metrics.skipped ? progress_.nan_steps_in_a_row + 1 : 0;
  if (metrics.skipped) ++progress_.skipped_steps;
  metrics.step = progress_.step;
  metrics.tokens = progress_.tokens_seen;
}

void Trainer::require_finite_steps() const {
  NMOE_CHECK(
      progress_.nan_steps_in_a_row < run_.config.max_nan_steps, nan_limit,
      "step {}: {} steps in a row with a non-finite loss or gradient (train.max_nan_steps = {}); lower "
      "train.learning_rate or inspect the data; the last good checkpoint is in {}",
      progress_.step, progress_.nan_steps_in_a_row, run_.config.max_nan_steps, run_.output_dir);
}

bool Trainer::save_is_due() const {
  const TrainConfig& c = run_.config;
  return progress_.step == c.steps || (c.save_every > 0 && progress_.step % c.save_every == 0);
}

void Trainer::watch_steps(double step_s) {
  constexpr int enough = 3;  // the first steps allocate, compile and warm up
  comm::Heartbeat& heartbeat = context_.heartbeat;
  heartbeat.step = progress_.step;
  longest_step_s_ = std::max(longest_step_s_, step_s);
  if (++steps_watched_ >= enough) heartbeat.longest_gap_s = longest_step_s_;
  heartbeat.beat();
}

void Trainer::finish_pending_gather(RunRecord& record) {
  record.account_for([this] { optimizer_.finish_gather(); });
}

void Trainer::start() {
  resume();
  const std::string idle = idle_ranks_warning(run_.config, context_.world.size());
  if (!idle.empty() && context_.world.rank() == 0) context_.log.warn("{}", idle);
  comm::agree(context_.world, [&] {  // now, not after hours of steps
    if (context_.world.rank() == 0 && progress_.step < run_.config.steps)
      io::require_free_space(run_.output_dir, checkpoint_bytes(decoder_));
  });
  reserve_step_memory(decoder_, plan_input(), context_.world.rank());
  frozen_.emplace(context_.world, decoder_);
  if (!resumed_from_.empty()) frozen_->require_same_as(resumed_from_);
  context_.heartbeat.beat();
}

TrainResult Trainer::run() {
  const auto began = std::chrono::steady_clock::now();
  start();
  RunRecord record(context_, run_, groups_, progress_.step);
  TrainResult result;
  result.checkpoint = resumed_from_;
  bool saved = !resumed_from_.empty();  // that checkpoint need not be written again
  StepBatch batch;
  while (progress_.step < run_.config.steps) {
    record.begin_step();
    batch.fill(mixture_, progress_.step, run_.config, groups_.layout, num_micro_batches_);
    const StepAgreement agreed = agree_on_step(batch);
    if (agreed.stop_requested) {
      if (!saved) result.checkpoint = save(record);
      result.saved_on_signal = true;
      break;
    }
    StepMetrics metrics = train_step(batch, agreed);
    advance(metrics);
    record.end_step(metrics);
    watch_steps(metrics.step_s);
    require_finite_steps();
    record.show_progress(metrics);
    record.warn_of_silence(metrics);
    saved = save_is_due();
    if (saved) result.checkpoint = save(record);
    if (run_.after_step) {
      context_.heartbeat.longest_gap_s = 0;
      finish_pending_gather(record);
      run_.after_step(progress_.step);
    }
  }
  context_.heartbeat.longest_gap_s = 0;
  finish_pending_gather(record);
  result.completed_steps = progress_.step;
  result.accounts = record.accounts();
  record.warn_of_steps_without_label();
  result.accounts.wall_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  if (result.accounts.num_steps > 0) {
    result.accounts.finish(plan_input(), run_.machine, context_.world, decoder_, optimizer_, context_.stream);
    context_.log.info("plan and count:\n{}", result.accounts.to_string());
  }
  return result;
}

}  // namespace nmoe::train
