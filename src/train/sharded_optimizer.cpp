#include "neuronmoe/train/sharded_optimizer.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>

#include "neuronmoe/ops/transformer.hpp"

namespace nmoe::train {

namespace {

std::vector<std::int64_t> sizes_of(const std::vector<model::Parameter*>& parameters) {
  std::vector<std::int64_t> sizes;
  for (const model::Parameter* p : parameters) sizes.push_back(p->shape.num_elements());
  return sizes;
}

std::vector<model::Parameter*> select(model::Decoder& decoder, bool experts) {
  std::vector<model::Parameter*> selected;
  model::for_each_parameter(decoder, [&](model::Parameter& p) {
    if (p.trainable && p.held() && p.is_new_expert() == experts) selected.push_back(&p);
  });
  return selected;
}

ConstTensorView view_of(const std::vector<float>& values, std::int64_t count) {
  return {values.data(), DType::float32, {count}};
}
TensorView view_of(std::vector<float>& values, std::int64_t count) {
  return {values.data(), DType::float32, {count}};
}

std::int64_t num_blocks(std::int64_t elements) {
  return (elements + ops::norm_block - 1) / ops::norm_block;
}

/// Elements [begin, begin + count) of a parameter's flat value.
TensorView flat(model::Parameter& p, std::int64_t begin, std::int64_t count) {
  return p.value.view().reshape({p.shape.num_elements()}).rows(begin, count);
}

}  // namespace

double cosine_learning_rate(double peak, double min_ratio, std::int64_t warmup, std::int64_t total,
                            std::int64_t t) {
  if (t < warmup) return peak * static_cast<double>(t) / static_cast<double>(warmup);
  const double progress =
      static_cast<double>(t - warmup) / static_cast<double>(std::max<std::int64_t>(1, total - warmup));
  const double cosine = 0.5 * (1.0 + std::cos(std::numbers::pi * std::min(1.0, progress)));
  return peak * (min_ratio + (1.0 - min_ratio) * cosine);
}

ShardGroup::ShardGroup(std::vector<model::Parameter*> parameters, comm::Communicator& comm, int leaves,
                       std::int64_t bucket_bytes)
    : parameters_(std::move(parameters)), comm_(comm), map_(sizes_of(parameters_), comm.size()) {
  const std::int64_t per_peer =
      bucket_bytes / (static_cast<std::int64_t>(sizeof(float)) * comm.size() * leaves);
  bucket_elements_ = std::max<std::int64_t>(1, per_peer);
  std::int64_t most = 0;
  for (int r = 0; r < comm.size(); ++r) most = std::max(most, map_.num_owned(r));
  num_buckets_ = (most + bucket_elements_ - 1) / bucket_elements_;
  sums_.resize(static_cast<std::size_t>(num_buckets_));
  for (Tensor* t : {&gradient_, &master_, &exp_avg_, &exp_avg_sq_})
    *t = Tensor({num_owned()}, DType::float32);
}

template <typename F>
void ShardGroup::for_each_piece(int rank, std::int64_t begin, std::int64_t end, F&& f) const {
  std::int64_t first = 0;  // flat position of the slice
  for (const comm::Slice& slice : map_.slices(rank)) {
    const std::int64_t from = std::max(begin, first), to = std::min(end, first + slice.size());
    if (from < to) {
      f(*parameters_[static_cast<std::size_t>(slice.tensor)], slice.begin + (from - first), from, to - from);
    }
    first += slice.size();
  }
}

std::int64_t ShardGroup::bucket_part(int rank, std::int64_t bucket) const {
  const std::int64_t begin = bucket * bucket_elements_;
  return std::clamp<std::int64_t>(map_.num_owned(rank) - begin, 0, bucket_elements_);
}

std::vector<float> ShardGroup::take_buffer(std::int64_t size) {
  std::vector<float> buffer;
  if (!pool_.empty()) {
    buffer = std::move(pool_.back());
    pool_.pop_back();
  }
  buffer.resize(static_cast<std::size_t>(size));
  return buffer;
}

void ShardGroup::reduce(std::span<const int> leaf_counts, Stream& stream) {
  const int num_ranks = comm_.size();
  const int my_leaves = leaf_counts[static_cast<std::size_t>(comm_.rank())];
  std::vector<std::int64_t> send_counts(static_cast<std::size_t>(num_ranks)), recv_counts(send_counts.size());
  for (std::int64_t bucket = 0; bucket < num_buckets_; ++bucket) {
    const std::int64_t begin = bucket * bucket_elements_, mine = bucket_part(comm_.rank(), bucket);
    std::int64_t num_send = 0, num_recv = 0;
    for (int r = 0; r < num_ranks; ++r) {
      const auto at = static_cast<std::size_t>(r);
      send_counts[at] = bucket_part(r, bucket) * my_leaves;
      recv_counts[at] = mine * leaf_counts[at];
      num_send += send_counts[at];
      num_recv += recv_counts[at];
    }
    send_.resize(static_cast<std::size_t>(std::max<std::int64_t>(num_send, 1)));
    receive_.resize(static_cast<std::size_t>(std::max<std::int64_t>(num_recv, 1)));
    float* out = send_.data();
    for (int r = 0; r < num_ranks; ++r) {
      for (int leaf = 0; leaf < my_leaves; ++leaf) {
        for_each_piece(r, begin, begin + bucket_part(r, bucket),
                       [&](model::Parameter& p, std::int64_t at, std::int64_t, std::int64_t count) {
                         const float* grad = p.grad.data<float>() + leaf * p.shape.num_elements() + at;
                         out = std::copy_n(grad, count, out);
                       });
      }
    }
    comm_
        .all_to_all_v(view_of(receive_, num_recv), recv_counts, view_of(std::as_const(send_), num_send),
                      send_counts, stream)
        .wait();
    const float* in = receive_.data();
    const auto add = [&](std::vector<float>& a, std::vector<float>& b) {
      ops::add_inplace(view_of(a, mine), view_of(std::as_const(b), mine), stream);
      pool_.push_back(std::move(b));
    };
    for (int r = 0; r < num_ranks; ++r) {
      for (int leaf = 0; leaf < leaf_counts[static_cast<std::size_t>(r)]; ++leaf) {
        std::vector<float> buffer = take_buffer(mine);
        std::copy_n(in, mine, buffer.begin());
        in += mine;
        sums_[static_cast<std::size_t>(bucket)].push(std::move(buffer), add);
      }
    }
  }
}

void ShardGroup::finish_reduction() {
  Stream cpu;
  for (std::int64_t bucket = 0; bucket < num_buckets_; ++bucket) {
    const std::int64_t mine = bucket_part(comm_.rank(), bucket);
    std::vector<float> total =
        sums_[static_cast<std::size_t>(bucket)].finish([&](std::vector<float>& a, std::vector<float>& b) {
          ops::add_inplace(view_of(a, mine), view_of(std::as_const(b), mine), cpu);
          pool_.push_back(std::move(b));
        });
    std::copy_n(total.begin(), mine, gradient_.data<float>() + bucket * bucket_elements_);
    pool_.push_back(std::move(total));
  }
}

void ShardGroup::gather_weights(Stream& stream) {
  if (parameters_.empty()) return;
  const DType dtype = parameters_.front()->value.dtype();
  const std::int64_t element = size_of(dtype);
  std::vector<std::int64_t> counts(static_cast<std::size_t>(comm_.size()));
  std::vector<char> send, receive;
  for (std::int64_t bucket = 0; bucket < num_buckets_; ++bucket) {
    const std::int64_t begin = bucket * bucket_elements_, mine = bucket_part(comm_.rank(), bucket);
    std::int64_t total = 0;
    for (int r = 0; r < comm_.size(); ++r)
      total += counts[static_cast<std::size_t>(r)] = bucket_part(r, bucket);
    send.resize(static_cast<std::size_t>(std::max<std::int64_t>(1, mine * element)));
    receive.resize(static_cast<std::size_t>(std::max<std::int64_t>(1, total * element)));
    for_each_piece(comm_.rank(), begin, begin + mine,
                   [&](model::Parameter& p, std::int64_t at, std::int64_t flat_at, std::int64_t count) {
                     std::memcpy(send.data() + (flat_at - begin) * element, flat(p, at, count).raw(),
                                 static_cast<std::size_t>(count * element));
                   });
    comm_.all_gather_v({receive.data(), dtype, {total}}, counts, {send.data(), dtype, {mine}}, stream).wait();
    const char* in = receive.data();
    for (int r = 0; r < comm_.size(); ++r) {
      for_each_piece(r, begin, begin + counts[static_cast<std::size_t>(r)],
                     [&](model::Parameter& p, std::int64_t at, std::int64_t, std::int64_t count) {
                       std::memcpy(flat(p, at, count).raw(), in, static_cast<std::size_t>(count * element));
                       in += count * element;
                     });
    }
  }
}

ShardedOptimizer::ShardedOptimizer(model::Decoder& decoder, const comm::ParallelLayout& layout,
                                   comm::Communicator& world, comm::Communicator& expert_data_parallel,
                                   std::int64_t bucket_bytes)
    : decoder_(decoder),
      layout_(layout),
      world_(world),
      replicated_(select(decoder, false), world, 1, bucket_bytes),
      experts_(select(decoder, true), expert_data_parallel, layout.expert_parallel_size(), bucket_bytes) {
  reset_state();
}

void ShardedOptimizer::reset_state() {
  Stream cpu;
  for (ShardGroup* group : groups()) {
    std::int64_t first = 0;
    for (const comm::Slice& slice : group->slices()) {
      model::Parameter& p = *group->parameters()[static_cast<std::size_t>(slice.tensor)];
      ops::cast(group->master().view().rows(first, slice.size()), flat(p, slice.begin, slice.size()), cpu);
      first += slice.size();
    }
    group->exp_avg().zero();
    group->exp_avg_sq().zero();
  }
}

void ShardedOptimizer::reduce(std::int64_t micro_step, std::int64_t num_micro_batches, Stream& stream) {
  const auto holds = [&](int world_rank) {
    return comm::micro_batch_of(micro_step, world_rank, layout_.world_size(), num_micro_batches) >= 0 ? 1 : 0;
  };
  std::vector<int> leaves;
  for (int r = 0; r < layout_.world_size(); ++r) leaves.push_back(holds(r));
  replicated_.reduce(leaves, stream);
  // A leaf of an expert comes from one rank of an expert-parallel group; ranks without a micro-batch are the
  // last ones.
  std::vector<int> expert_leaves;
  for (int group = 0; group < layout_.expert_data_parallel_size(); ++group) {
    int count = 0;
    for (int j = 0; j < layout_.expert_parallel_size(); ++j)
      count += holds(group * layout_.expert_parallel_size() + j);
    expert_leaves.push_back(count);
  }
  experts_.reduce(expert_leaves, stream);
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
  std::vector<double> partials(static_cast<std::size_t>(total), 0.0);
  for (ShardGroup* group : groups()) {
    group->finish_reduction();
    std::int64_t first = 0;
    for (const comm::Slice& slice : group->slices()) {
      const model::Parameter* p = group->parameters()[static_cast<std::size_t>(slice.tensor)];
      const auto position = static_cast<std::size_t>(p - decoder_.parameters().data());
      double* out = partials.data() + first_block[position] + slice.begin / ops::norm_block;
      ops::sum_of_squares({out, DType::float64, {num_blocks(slice.size())}},
                          group->gradient().rows(first, slice.size()), stream);
      first += slice.size();
    }
  }
  world_.all_reduce({partials.data(), DType::float64, {total}}, comm::ReduceOp::sum, stream).wait();
  double sum = 0.0;
  for (const double partial : partials) sum += partial;
  return std::sqrt(sum);
}

void ShardedOptimizer::update(const ops::AdamWStep& step, Stream& stream) {
  for (ShardGroup* group : groups()) {
    std::int64_t first = 0;
    for (const comm::Slice& slice : group->slices()) {
      model::Parameter& p = *group->parameters()[static_cast<std::size_t>(slice.tensor)];
      const std::int64_t n = slice.size();
      ops::adamw_update(flat(p, slice.begin, n), group->master().view().rows(first, n),
                        group->exp_avg().view().rows(first, n), group->exp_avg_sq().view().rows(first, n),
                        group->gradient().rows(first, n), step, stream);
      first += n;
    }
    group->gather_weights(stream);
  }
}

std::vector<model::ParameterPiece> ShardedOptimizer::owned_pieces() const {
  std::vector<model::ParameterPiece> pieces;
  for (const ShardGroup* group : {&replicated_, &experts_}) {
    for (const comm::Slice& slice : group->slices()) {
      pieces.push_back({group->parameters()[static_cast<std::size_t>(slice.tensor)], slice.begin, slice.end});
    }
  }
  for (const model::Parameter& p : decoder_.parameters()) {
    if (p.trainable || !p.held() || !model::is_stored(p)) continue;
    const bool first_holder =
        p.is_new_expert() ? layout_.expert_data_parallel_rank() == 0 : layout_.rank() == 0;
    if (first_holder) pieces.push_back({&p, 0, p.shape.num_elements()});
  }
  return pieces;
}

}  // namespace nmoe::train
