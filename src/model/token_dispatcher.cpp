#include "neuronmoe/model/token_dispatcher.hpp"

namespace nmoe::model {

namespace {

/// Experts in the order their rows are laid out: by owner, then id.
std::vector<int> experts_by_owner(const comm::ExpertPlacement& placement, int layer, int num_ranks) {
  std::vector<int> order;
  for (int r = 0; r < num_ranks; ++r) {
    const std::vector<int> owned = placement.experts_on(layer, r);
    order.insert(order.end(), owned.begin(), owned.end());
  }
  return order;
}

}  // namespace

TokenDispatcher::TokenDispatcher(const ExpertParallelGroup& group, int layer, int num_experts,
                                 ConstTensorView indices, Stream& stream)
    : group_(group),
      num_tokens_(indices.dim(0)),
      top_k_(indices.dim(1)),
      dispatches_(group.placement.dispatches(layer)) {
  const int num_ranks = group.comm.size();
  const auto* expert_of_slot = indices.data<std::int32_t>();
  const std::int64_t num_slots = num_tokens_ * top_k_;
  if (top_k_ == num_experts) {  // every token visits every expert: nothing to count
    slots_of_expert_.assign(static_cast<std::size_t>(num_experts), num_tokens_);
  } else {
    slots_of_expert_.assign(static_cast<std::size_t>(num_experts), 0);
    for (std::int64_t s = 0; s < num_slots; ++s)
      ++slots_of_expert_[static_cast<std::size_t>(expert_of_slot[s])];
  }

  // First row of every expert: the base, replicated ones, then by owner and id.
  std::vector<std::int64_t> first_row(static_cast<std::size_t>(num_experts), 0);
  num_base_rows_ = num_local_rows_ = slots_of_expert_[0];
  for (const int e : group.placement.replicated_experts(layer)) {
    const auto at = static_cast<std::size_t>(e);
    first_row[at] = num_local_rows_;
    num_local_rows_ += slots_of_expert_[at];
    local_segments_.push_back({e, 0, first_row[at], num_local_rows_});
  }
  const std::vector<int> order = experts_by_owner(group.placement, layer, num_ranks);
  std::int64_t row = num_local_rows_;
  send_counts_.assign(static_cast<std::size_t>(num_ranks), 0);
  for (const int e : order) {
    first_row[static_cast<std::size_t>(e)] = row;
    row += slots_of_expert_[static_cast<std::size_t>(e)];
    send_counts_[static_cast<std::size_t>(group.placement.owner(layer, e))] +=
        slots_of_expert_[static_cast<std::size_t>(e)];
  }
  token_of_row_.resize(static_cast<std::size_t>(num_slots));
  row_of_slot_.resize(static_cast<std::size_t>(num_slots));
  std::vector<std::int64_t>& next_row = first_row;
  for (std::int64_t t = 0; t < num_tokens_; ++t) {
    for (std::int64_t j = 0; j < top_k_; ++j) {
      const std::int64_t slot = t * top_k_ + j;
      const std::int64_t r = next_row[static_cast<std::size_t>(expert_of_slot[slot])]++;
      token_of_row_[static_cast<std::size_t>(r)] = static_cast<std::int32_t>(t);
      row_of_slot_[static_cast<std::size_t>(slot)] = static_cast<std::int32_t>(r);
    }
  }
  recv_counts_.assign(static_cast<std::size_t>(num_ranks), 0);
  if (dispatches_) exchange_counts(layer, order, stream);
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
    for (std::int64_t i = 0; i < num_mine; ++i) {
      const std::int64_t count = counts_in[static_cast<std::size_t>(source * num_mine + i)];
      segments_.push_back({mine[static_cast<std::size_t>(i)], source, num_received_, num_received_ + count});
      num_received_ += count;
      recv_counts_[static_cast<std::size_t>(source)] += count;
    }
  }
}

ConstTensorView TokenDispatcher::token_of_row() const {
  return {token_of_row_.data(), DType::int32, {num_rows()}};
}

ConstTensorView TokenDispatcher::row_of_slot() const {
  return {row_of_slot_.data(), DType::int32, {num_tokens_, top_k_}};
}

comm::Work TokenDispatcher::dispatch(TensorView received, ConstTensorView rows, Stream& stream) const {
  return group_.comm.all_to_all_v(
      received, recv_counts_, rows.rows(num_local_rows_, num_rows() - num_local_rows_), send_counts_, stream);
}

comm::Work TokenDispatcher::combine(TensorView rows, ConstTensorView received, Stream& stream) const {
  return group_.comm.all_to_all_v(rows.rows(num_local_rows_, num_rows() - num_local_rows_), send_counts_,
                                  received, recv_counts_, stream);
}

}  // namespace nmoe::model
