// What a run writes down about its steps.
#include "run_record.hpp"

#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/io/atomic_file.hpp"

namespace nmoe::train {

RunRecord::RunRecord(const comm::ExecutionContext& context, const TrainRun& run, const ParallelGroups& groups,
                     std::int64_t first_step)
    : context_(context),
      config_(run.config),
      groups_(groups),
      first_step_(first_step),
      wants_old_text_(run.kind == RunKind::stage2 && run.config.lpr_form != LprLoss::off &&
                      run.config.lpr_loss_coef > 0.0),
      progress_(context.log, "training", static_cast<std::uint64_t>(run.config.steps), "tokens") {
  comm::agree(context.world, [&] {
    if (context.world.rank() != 0) return;
    io::make_directories(run.output_dir);
    metrics_file_.emplace(run.output_dir + "/metrics.jsonl", first_step);
  });
  if (first_step < config_.steps)
    context.log.info("training: step {} of {} begins; a rate is known after it", first_step + 1,
                     config_.steps);
}

std::map<std::string, std::int64_t> RunRecord::bytes_sent() const {
  std::map<std::string, std::int64_t> bytes;
  for (const comm::Communicator* group :
       {&context_.world, groups_.expert_parallel.get(), groups_.expert_data_parallel.get()}) {
    for (std::size_t i = 0; i < comm::num_operations; ++i) {
      const auto operation = static_cast<comm::Operation>(i);
      const std::int64_t sent = group->counters()[operation].bytes_sent;
      if (sent > 0) bytes[std::string(name_of(operation))] += sent;
    }
  }
  return bytes;
}

std::map<std::string, std::int64_t> RunRecord::bytes_sent_since(
    const std::map<std::string, std::int64_t>& before) const {
  std::map<std::string, std::int64_t> bytes = bytes_sent();
  for (const auto& [operation, sent] : before) bytes[operation] -= sent;
  return bytes;
}

void RunRecord::begin_step() {
  step_start_ = Clock::now();
  flops_before_ = context_.stream.flops();
  bytes_before_ = bytes_sent();
}

void RunRecord::end_step(StepMetrics& metrics) {
  metrics.flops = context_.stream.flops() - flops_before_;
  metrics.bytes = bytes_sent_since(bytes_before_);
  metrics.step_s = std::chrono::duration<double>(Clock::now() - step_start_).count();
  metrics.tokens_per_s = static_cast<double>(config_.global_batch_size * config_.seq_length) / metrics.step_s;
  accounts_.add(metrics);
  comm::agree(context_.world, [&] {
    if (metrics_file_) metrics_file_->write(metrics);
  });
}

void RunRecord::show_progress(const StepMetrics& metrics) {
  const bool due = metrics.step == first_step_ + 1 || metrics.step == config_.steps ||
                   metrics.step % config_.log_every == 0 ||
                   std::chrono::duration<double>(Clock::now() - last_shown_).count() > quiet_s;
  if (!due && !context_.log.shows()) return;
  if (due) last_shown_ = Clock::now();
  progress_.update(static_cast<std::uint64_t>(metrics.step), static_cast<double>(metrics.tokens),
                   fmt::format("loss {:.4f}, norm {:.3f}, lr {:.2e}", metrics.loss_lm, metrics.grad_norm,
                               metrics.learning_rate),
                   due);
}

void RunRecord::warn_of_silence(const StepMetrics& metrics) {
  if (context_.world.rank() != 0) return;
  if (metrics.no_label && ++steps_without_label_ == 1)
    context_.log.warn(
        "step {}: no token of the global batch has a label (empty documents?), so loss_lm is 0; such steps "
        "have "
        "\"no_label\" in metrics.jsonl",
        metrics.step);
  bool old = !wants_old_text_;  // the loss is a mean of logarithms: 0 only where there is nothing to average
  for (std::size_t i = 0; i < metrics.auxiliary.size(); ++i)
    old = old || (model::auxiliary_losses[i].scale == &model::LossScales::lpr && metrics.auxiliary[i] != 0.0);
  steps_without_old_ = old ? 0 : steps_without_old_ + 1;
  if (steps_without_old_ == old_patience)
    context_.log.warn(
        "steps {} to {}: no token is in an old language, so the routing loss is 0; raise the weight of the "
        "replay "
        "text in [data.<name>]",
        metrics.step - old_patience + 1, metrics.step);
}

void RunRecord::warn_of_steps_without_label() const {
  if (steps_without_label_ > 0 && context_.world.rank() == 0)
    context_.log.warn("{} steps of this run had no label in their global batch", steps_without_label_);
}

void RunRecord::account_for(const std::function<void()>& work) {
  const std::map<std::string, std::int64_t> before = bytes_sent();
  work();
  for (const auto& [operation, sent] : bytes_sent_since(before)) {
    if (sent > 0) accounts_.bytes[operation] += sent;
  }
}

void RunRecord::add_save(const std::string& directory, double seconds, std::int64_t bytes) {
  accounts_.save_s.push_back(seconds);
  accounts_.saved_bytes = bytes;
  context_.log.info("saved {}: {:.1f} MB in {:.3g} s ({:.0f} MB/s)", directory, bytes * 1e-6, seconds,
                    bytes * 1e-6 / seconds);
}

void RunRecord::sync() {
  comm::agree(context_.world, [&] {
    if (metrics_file_) metrics_file_->sync();
  });
}

}  // namespace nmoe::train
