// Micro-batches of a step beside the ranks they are dealt to.
#include "neuronmoe/train/idle_ranks.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "neuronmoe/comm/layout.hpp"

namespace nmoe::train {

namespace {

/// Largest micro-batch up to `at_most` of which equally many make `of_rank` sequences.
std::int64_t divisor_up_to(std::int64_t at_most, std::int64_t of_rank) {
  std::int64_t size = std::min(at_most, of_rank);
  while (of_rank % size != 0) --size;
  return size;
}

/// What gives every rank equally many micro-batches, else as many ranks as this batch can feed.
std::string remedy(const TrainConfig& config, int num_ranks) {
  if (const std::int64_t size = feeding_micro_batch_size(config, num_ranks); size > 0)
    return fmt::format("--train.micro_batch_size {} feeds every rank", size);
  const std::int64_t of_rank = (config.global_batch_size + num_ranks - 1) / num_ranks;
  const std::string larger = fmt::format(
      "--train.global_batch_size {} --train.micro_batch_size {} feeds every rank, but is another training",
      of_rank * num_ranks, divisor_up_to(config.micro_batch_size, of_rank));
  int fed = num_ranks - 1;
  while (fed > 0 && (config.global_batch_size % fed != 0 || fed % config.expert_parallel_size != 0)) --fed;
  if (fed == 0) return larger;
  return fmt::format("run on {} ranks with --train.micro_batch_size {}; {}", fed,
                     feeding_micro_batch_size(config, fed), larger);
}

}  // namespace

RankUse rank_use(const TrainConfig& config, int num_ranks) {
  RankUse use;
  use.num_micro_batches = config.global_batch_size / config.micro_batch_size;
  use.turns = comm::num_micro_steps(use.num_micro_batches, num_ranks);
  use.idle = use.turns * num_ranks - use.num_micro_batches;
  use.share = static_cast<double>(use.num_micro_batches) / static_cast<double>(use.turns * num_ranks);
  return use;
}

std::int64_t feeding_micro_batch_size(const TrainConfig& config, int num_ranks) {
  if (config.global_batch_size % num_ranks != 0) return 0;
  return divisor_up_to(config.micro_batch_size, config.global_batch_size / num_ranks);
}

std::string idle_ranks_warning(const TrainConfig& config, int num_ranks) {
  const RankUse use = rank_use(config, num_ranks);
  if (use.idle == 0) return "";
  const std::string when = use.turns == 1 ? "" : fmt::format(" in the last of {} turns", use.turns);
  return fmt::format(
      "{} of {} ranks are idle{}: a step has {} micro-batches (train.global_batch_size = {} / "
      "train.micro_batch_size = {}) for {} ranks; {}",
      use.idle, num_ranks, when, use.num_micro_batches, config.global_batch_size, config.micro_batch_size,
      num_ranks, remedy(config, num_ranks));
}

}  // namespace nmoe::train
