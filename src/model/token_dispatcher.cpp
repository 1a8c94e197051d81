// Order of routed rows, exchange of their counts, dispatch and combine.
#include "neuronmoe/model/token_dispatcher.hpp"

#include "neuronmoe/ops/moe.hpp"
#include "neuronmoe/tensor/device.hpp"

namespace nmoe::model {

namespace {

/// Experts in the order their rows are laid out: by owner, then id.
std::vector<int> experts_by_owner(const ExpertPlacement& placement, int layer, int num_ranks) {
  std::vector<int> order;
  for (int r = 0; r < num_ranks; ++r) {
    const std::vector<int> owned = placement.experts_on(layer, r);
    order.insert(order.end(), owned.begin(), owned.end());
  }
  return order;
}

}  // namespace

std::vector<std::int32_t> TokenDispatcher::places_of_experts(const ExpertParallelGroup& group, int layer,
                                                             int num_experts) {
  std::vector<std::int32_t> place(static_cast<std::size_t>(num_experts), 0);
  std::int32_t next = 1;
  for (const int e : group.placement.replicated_experts(layer)) place[static_cast<std::size_t>(e)] = next++;
  for (const int e : experts_by_owner(group.placement, layer, group.comm.size()))
    place[static_cast<std::size_t>(e)] = next++;
  return place;
}

TokenDispatcher::TokenDispatcher(const ExpertParallelGroup& group, const Choice& choice,
                                 const RowOrder& order, const RowCounts& counts, Stream& stream)
    : group_(group), dispatches_(group.placement.dispatches(choice.layer)), order_(order) {
  const int num_ranks = group.comm.size(), layer = choice.layer;
  const std::int64_t num_experts = choice.place_of_expert.num_elements();
  const std::vector<int> replicated = group.placement.replicated_experts(layer);
  const std::vector<int> owned = experts_by_owner(group.placement, layer, num_ranks);
  ops::lay_out_rows(order.token_of_row, order.row_of_slot, counts.slots_of_expert, choice.indices,
                    choice.place_of_expert, stream);
  slots_of_expert_.assign(static_cast<std::size_t>(num_experts), choice.indices.dim(0));
  if (choice.indices.dim(1) != num_experts) {  // else every token visits every expert: nothing to read back
    copy(TensorView(slots_of_expert_.data(), DType::int64, {num_experts}), counts.slots_of_expert, stream);
  }
  num_base_rows_ = num_local_rows_ = slots_of_expert_[0];
  for (const int e : replicated) {
    const std::int64_t begin = num_local_rows_;
    num_local_rows_ += slots_of_expert_[static_cast<std::size_t>(e)];
    local_blocks_.push_back({e, 0, begin, num_local_rows_});
  }
  send_counts_.assign(static_cast<std::size_t>(num_ranks), 0);
  for (const int e : owned) {
    send_counts_[static_cast<std::size_t>(group.placement.owner(layer, e))] +=
        slots_of_expert_[static_cast<std::size_t>(e)];
  }
  recv_counts_.assign(static_cast<std::size_t>(num_ranks), 0);
  first_received_.assign(static_cast<std::size_t>(num_ranks), 0);
  if (dispatches_) exchange_counts(layer, owned, stream);
}

void TokenDispatcher::exchange_counts(int layer, const std::vector<int>& order, Stream& stream) {
  // Per-expert counts travel once; every rank learns how many rows each source has for each of its experts.
  const int num_ranks = group_.comm.size();
  std::vector<std::int64_t> counts_out, experts_per_rank(static_cast<std::size_t>(num_ranks), 0);
  for (const int e : order) {
    counts_out.push_back(slots_of_expert_[static_cast<std::size_t>(e)]);
    ++experts_per_rank[static_cast<std::size_t>(group_.placement.owner(layer, e))];
  }
  const std::vector<int> mine = group_.placement.experts_on(layer, group_.comm.rank());
  const auto num_mine = static_cast<std::int64_t>(mine.size());
  std::vector<std::int64_t> counts_in(static_cast<std::size_t>(num_ranks * num_mine));
  const std::vector<std::int64_t> from_each(static_cast<std::size_t>(num_ranks), num_mine);
  group_.comm
      .all_to_all_v(
          TensorView(counts_in.data(), DType::int64, {num_ranks * num_mine}), from_each,
          ConstTensorView(counts_out.data(), DType::int64, {static_cast<std::int64_t>(counts_out.size())}),
          experts_per_rank, stream)
      .wait();
  for (int source = 0; source < num_ranks; ++source) {
    first_received_[static_cast<std::size_t>(source)] = num_received_;
    for (std::int64_t i = 0; i < num_mine; ++i) {
      const std::int64_t count = counts_in[static_cast<std::size_t>(source * num_mine + i)];
      blocks_.push_back({mine[static_cast<std::size_t>(i)], source, num_received_, num_received_ + count});
      num_received_ += count;
      recv_counts_[static_cast<std::size_t>(source)] += count;
    }
  }
}

ConstTensorView Arrivals::rows(const ExpertBlock& block) const {
  const std::int64_t count = block.end - block.begin;
  const ConstTensorView here = received_.rows(block.begin, count);
  if (first_of_source_.empty() || count == 0) return here;
  const std::int64_t first = block.begin - first_of_source_[static_cast<std::size_t>(block.source)];
  const auto* rows = static_cast<const std::byte*>(exchange_.rows_of(block.source));
  return {rows + first * (here.num_bytes() / count), here.dtype(), here.shape(), here.device()};
}

Arrivals TokenDispatcher::dispatch(TensorView received, ConstTensorView rows, bool keep,
                                   Stream& stream) const {
  const ConstTensorView sent = rows.rows(num_local_rows_, num_rows() - num_local_rows_);
  if (is_local()) return {comm::Work(), sent};
  comm::Communicator& comm = group_.comm;
  if (keep) return {comm.all_to_all_v(received, recv_counts_, sent, send_counts_, stream), received};
  return {comm.all_to_all_in_place(received, recv_counts_, sent, send_counts_, stream), received,
          first_received_};
}

comm::Work TokenDispatcher::combine(TensorView rows, ConstTensorView received, Stream& stream) const {
  return group_.comm.all_to_all_v(rows.rows(num_local_rows_, num_rows() - num_local_rows_), send_counts_,
                                  received, recv_counts_, stream);
}

}  // namespace nmoe::model
