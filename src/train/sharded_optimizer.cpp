// AdamW over both groups of parameters: when they reduce, the global norm, the update.
#include "neuronmoe/train/sharded_optimizer.hpp"

#include <algorithm>
#include <cmath>

#include "neuronmoe/ops/transformer.hpp"
#include "neuronmoe/tensor/device.hpp"

namespace nmoe::train {

namespace {

std::vector<model::Parameter*> select(model::Decoder& decoder, bool experts) {
  const model::ExpertPlacement& placement = decoder.expert_parallel_group().placement;
  std::vector<model::Parameter*> selected;
  model::for_each_parameter(decoder, [&](model::Parameter& p) {
    if (p.trainable && p.held() && placement.is_owned(p.layer, p.expert) == experts) selected.push_back(&p);
  });
  return selected;
}

std::int64_t num_blocks(std::int64_t elements) {
  return (elements + ops::norm_block - 1) / ops::norm_block;
}

}  // namespace

ShardedOptimizer::ShardedOptimizer(model::Decoder& decoder, const comm::ParallelLayout& layout,
                                   comm::Communicator& world, comm::Communicator& expert_data_parallel,
                                   const ReduceOptions& options)
    : decoder_(decoder),
      layout_(layout),
      world_(world),
      replicated_(select(decoder, false), world, 1, options, decoder.stream()),
      experts_(select(decoder, true), expert_data_parallel, layout.expert_parallel_size(), options,
               decoder.stream()),
      once_per_step_(options.once_per_step) {
  std::int64_t total = 0;
  for (const model::Parameter& p : decoder.parameters()) {
    if (p.trainable) total += num_blocks(p.shape.num_elements());
  }
  host_partials_ = Tensor({total}, DType::float64);
  if (decoder.stream().device() != Device::cpu)
    partials_ = Tensor({total}, DType::float64, decoder.stream().device());
  reset_state();
  if (once_per_step_) {
    decoder_.zero_gradients();
  } else {
    decoder_.share_gradients();
  }
  decoder_.set_hooks({[this](int segment) {
                        for (ShardGroup* group : groups()) group->wait_weights(segment);
                      },
                      [this](int segment) { gradients_ready(segment); }});
}

ShardedOptimizer::~ShardedOptimizer() {
  decoder_.set_hooks({});
}

void ShardedOptimizer::reset_state() {
  Stream& stream = decoder_.stream();
  for (ShardGroup* group : groups()) {
    for (const HeldSlice& slice : group->held()) {
      ops::cast(group->master().view().rows(slice.offset, slice.size),
                flat_value(*slice.parameter, slice.begin, slice.size), stream);
    }
    zero(group->exp_avg().view(), stream);
    zero(group->exp_avg_sq().view(), stream);
  }
}

std::vector<int> leaf_counts(const comm::ParallelLayout& layout, bool experts, std::int64_t micro_step,
                             std::int64_t num_micro_batches) {
  // A leaf of an expert comes from one rank of an expert-parallel group; ranks without a micro-batch are the
  // last ones.
  const int per_source = experts ? layout.expert_parallel_size() : 1;
  std::vector<int> counts(static_cast<std::size_t>(layout.world_size() / per_source), 0);
  for (int r = 0; r < layout.world_size(); ++r) {
    if (comm::micro_batch_of(micro_step, r, layout.world_size(), num_micro_batches) >= 0)
      ++counts[static_cast<std::size_t>(r / per_source)];
  }
  return counts;
}

void ShardedOptimizer::begin_micro_step(std::int64_t micro_step, std::int64_t num_micro_batches) {
  const std::int64_t sender =
      once_per_step_ ? 0 : micro_step;  // the micro-step whose holders send a leaf now
  leaf_counts_ = leaf_counts(layout_, false, sender, num_micro_batches);
  expert_leaf_counts_ = leaf_counts(layout_, true, sender, num_micro_batches);
  num_leaves_ =
      once_per_step_ ? std::min<std::int64_t>(num_micro_batches, layout_.world_size()) : num_micro_batches;
  reduces_ =
      !once_per_step_ || micro_step + 1 == comm::num_micro_steps(num_micro_batches, layout_.world_size());
  if (!once_per_step_ || micro_step == 0) decoder_.zero_gradients();
}

void ShardedOptimizer::gradients_ready(int segment) {
  if (!reduces_) return;
  replicated_.reduce_segment(segment, leaf_counts_, num_leaves_);
  experts_.reduce_segment(segment, expert_leaf_counts_, num_leaves_);
}

void ShardedOptimizer::finish_gather() {
  for (ShardGroup* group : groups()) group->wait_weights(-1);
}

double ShardedOptimizer::finish_reduction(Stream& stream) {
  // Partial sums of fixed blocks of every trainable tensor of the model, in name order; each block has one
  // owner.
  std::vector<std::int64_t> first_block;
  std::int64_t total = 0;
  for (const model::Parameter& p : decoder_.parameters()) {
    first_block.push_back(total);
    if (p.trainable) total += num_blocks(p.shape.num_elements());
  }
  const TensorView host = host_partials_.view(), partials = partials_.valid() ? partials_.view() : host;
  zero(partials, stream);
  for (ShardGroup* group : groups()) {
    group->finish_reduction();
    for (const HeldSlice& slice : group->owned()) {
      const auto position = static_cast<std::size_t>(slice.parameter - decoder_.parameters().data());
      const std::int64_t first = first_block[position] + slice.begin / ops::norm_block;
      ops::sum_of_squares(partials.rows(first, num_blocks(slice.size)),
                          group->gradient().rows(slice.offset, slice.size), stream);
    }
  }
  if (partials_.valid()) copy(host, partials, stream);
  world_.all_reduce(host, comm::ReduceOp::sum, stream).wait();
  double sum = 0.0;
  for (std::int64_t i = 0; i < total; ++i) sum += host.data<double>()[i];
  return std::sqrt(sum);
}

void ShardedOptimizer::update(const ops::AdamWStep& step, Stream& stream) {
  for (ShardGroup* group : groups()) {
    group->gather_gradients();
    for (const HeldSlice& slice : group->held()) {
      const std::int64_t at = slice.offset, n = slice.size;
      ops::adamw_update(flat_value(*slice.parameter, slice.begin, n), group->master().view().rows(at, n),
                        group->exp_avg().view().rows(at, n), group->exp_avg_sq().view().rows(at, n),
                        group->gradient().rows(at, n), step, stream);
    }
    group->start_gather();
  }
}

std::vector<model::ParameterPiece> ShardedOptimizer::owned_pieces() const {
  std::vector<model::ParameterPiece> pieces;
  for (const ShardGroup* group : groups()) {
    for (const HeldSlice& slice : group->owned())
      pieces.push_back({slice.parameter, slice.begin, slice.begin + slice.size});
  }
  const model::ExpertPlacement& placement = decoder_.expert_parallel_group().placement;
  for (const model::Parameter& p : decoder_.parameters()) {
    if (p.trainable || !p.held() || !model::is_stored(p)) continue;
    const bool first_holder = placement.is_owned(p.layer, p.expert) ? layout_.expert_data_parallel_rank() == 0
                                                                    : layout_.rank() == 0;
    if (first_holder) pieces.push_back({&p, 0, p.shape.num_elements()});
  }
  return pieces;
}

}  // namespace nmoe::train
