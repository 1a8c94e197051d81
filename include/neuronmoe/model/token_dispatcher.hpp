#pragma once
// Brings routed tokens to the ranks that own their experts and back (DESIGN 5). Used by MoeLayer.
//
// Rows of the permuted buffer, N = routed slots of this rank: first the rows of the base expert, then those
// of experts that every rank holds (neither ever travels), then the others by (owner, expert id, token). A
// receiving rank sees its rows by (source rank, expert id, token), so the rows of one expert from one source
// micro-batch are contiguous: an `ExpertBlock`. Experts run once per block, which makes results independent
// of where experts live (DESIGN 6).
#include <cstdint>
#include <vector>

#include "neuronmoe/comm/communicator.hpp"
#include "neuronmoe/model/expert_placement.hpp"
#include "neuronmoe/model/layer_pass.hpp"

namespace nmoe::model {

/// The expert-parallel group of this rank. `comm` outlives every user.
struct ExpertParallelGroup {
  comm::Communicator& comm;
  ExpertPlacement placement;
};

/// Rows [begin, end) of the received buffer: tokens of source rank `source` for `expert`.
struct ExpertBlock {
  int expert;
  int source;
  std::int64_t begin, end;
};

/// Rows of a MoE layer on this rank in one micro-batch, which routing decides about.
struct DispatchedRows {
  std::int64_t all = 0;         ///< N, routed slots of its tokens
  std::int64_t base = 0;        ///< of these for the base expert
  std::int64_t replicated = 0;  ///< of these for experts that every rank holds
  std::int64_t received = 0;    ///< R, of all sources for experts that this rank owns
  bool local = true;            ///< whether nothing travels: then R = the other rows of these
};

/// Where the slots of a layer's tokens went, kept as what routing itself keeps.
struct RowOrder {
  TensorView token_of_row, row_of_slot;  // [N], [T, K] int32
};
template <typename F>
void for_each_buffer(RowOrder& b, const LayerSizes& s, F&& f) {
  f(b.token_of_row, kept_if(s.plan.router), {s.num_tokens * s.top_k()}, DType::int32);
  f(b.row_of_slot, kept_if(s.plan.router), {s.num_tokens, s.top_k()}, DType::int32);
}

/// Until the rows are laid out.
struct RowCounts {
  TensorView slots_of_expert;  // [E] int64
};
template <typename F>
void for_each_buffer(RowCounts& b, const LayerSizes& s, F&& f) {
  f(b.slots_of_expert, Memory::scratch, {s.num_experts()}, DType::int64);
}

/// Rows on their way to this rank's experts.
class [[nodiscard]] Arrivals {
 public:
  /// All of them will be in `received`.
  Arrivals(comm::Work work, ConstTensorView received) : received_(received) {
    exchange_ = {std::move(work), nullptr};
  }
  /// Those of a source will be where the exchange says; `first_of_source` gives their place among all.
  Arrivals(comm::InPlaceExchange exchange, ConstTensorView received,
           std::vector<std::int64_t> first_of_source)
      : exchange_(std::move(exchange)), received_(received), first_of_source_(std::move(first_of_source)) {}
  /// Waits for the rows. Called before any other member.
  void wait() { exchange_.wait(); }
  /// Returns the rows of a block, where they are.
  ConstTensorView rows(const ExpertBlock& block) const;
  /// Tells the senders that their rows are not read any more. Call it before this rank joins the next
  /// exchange of the group.
  void release() { exchange_.release(); }
  /// Waits until no rank reads what this rank sent, so that it may be overwritten.
  void reclaim() { exchange_.reclaim(); }

 private:
  comm::InPlaceExchange exchange_;
  ConstTensorView received_;
  std::vector<std::int64_t> first_of_source_;  // empty: all rows are in received_
};

/// One layer's dispatch of one forward; reused by combine and both backward directions, so counts travel
/// once.
class TokenDispatcher {
 public:
  /// Returns the place of every expert's rows, [E]: the base, replicated ones, then by owner and id.
  static std::vector<std::int32_t> places_of_experts(const ExpertParallelGroup& group, int layer,
                                                     int num_experts);
  /// Where a layer's tokens want to go, and the places of the experts.
  struct Choice {
    int layer;
    ConstTensorView place_of_expert;  ///< [E] int32, places_of_experts of the layer
    ConstTensorView indices;          ///< [T, K] int32 chosen experts
  };
  /// Fills `order`, which outlives this. On a GPU the rows per expert are read back: the one wait of the host
  /// in a layer.   Collective over the expert-parallel group.
  TokenDispatcher(const ExpertParallelGroup& group, const Choice& choice, const RowOrder& order,
                  const RowCounts& counts, Stream& stream);

  /// Returns whether every expert lives on this rank: nothing travels, rows past the local rows already are
  /// the received rows.
  bool is_local() const { return group_.comm.size() == 1 || !dispatches_; }
  DispatchedRows rows() const {
    return {num_rows(), num_base_rows_, num_local_rows_ - num_base_rows_, num_received_, is_local()};
  }
  std::int64_t num_rows() const { return order_.token_of_row.num_elements(); }
  std::int64_t num_base_rows() const { return num_base_rows_; }
  /// Returns the rows of the base and of replicated experts; the latter's, within all rows, are
  /// local_blocks() (source 0).
  std::int64_t num_local_rows() const { return num_local_rows_; }
  const std::vector<ExpertBlock>& local_blocks() const { return local_blocks_; }
  std::int64_t num_received() const { return num_received_; }
  const std::vector<ExpertBlock>& blocks() const { return blocks_; }
  /// Returns [E] slots of this rank's tokens per expert.
  const std::vector<std::int64_t>& slots_of_expert() const { return slots_of_expert_; }
  ConstTensorView token_of_row() const { return order_.token_of_row; }  // [N] int32
  ConstTensorView row_of_slot() const { return order_.row_of_slot; }    // [T, K] int32

  /// Starts to bring the rows of all sources for my experts; `rows` [N, D] in permuted order (or [N] int32:
  /// row_sample of observers). With `keep` they are in `received` [R, D] after wait(), for as long as the
  /// caller likes and without release(); else what ranks of this node send from a SendBuffer is read there,
  /// and `received` takes the rest. Both must stay as they are until wait(), without `keep` until release()
  /// and reclaim(). Collective; with is_local() nothing moves, and the rows past the local ones are the
  /// received ones.
  Arrivals dispatch(TensorView received, ConstTensorView rows, bool keep, Stream& stream) const;
  /// Starts the way back: rows [N, D] past the local rows = what owners computed for them.   Collective.
  /// @pre !is_local()
  comm::Work combine(TensorView rows, ConstTensorView received, Stream& stream) const;

 private:
  void exchange_counts(int layer, const std::vector<int>& order, Stream& stream);

  const ExpertParallelGroup& group_;
  bool dispatches_;
  std::int64_t num_base_rows_ = 0, num_local_rows_ = 0, num_received_ = 0;
  RowOrder order_;
  std::vector<std::int64_t> slots_of_expert_;
  std::vector<std::int64_t> send_counts_, recv_counts_;  // rows per peer
  std::vector<std::int64_t> first_received_;             // per source, within all received rows
  std::vector<ExpertBlock> blocks_, local_blocks_;
};

}  // namespace nmoe::model
