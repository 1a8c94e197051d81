#pragma once
// One MPI communicator and the message patterns on it. Everything here runs inside a task of the Queue.
#include <mpi.h>

#include <memory>
#include <span>
#include <vector>

#include "neuronmoe/comm/mpi_communicator.hpp"
#include "node_window.hpp"
#include "queue.hpp"

namespace nmoe::comm::detail {

/// Bytes to or from one rank.
struct Piece {
  int peer;
  std::byte* data;
  std::int64_t num_bytes;
};

/// Send buffers of this node that are still read, once per piece: those of others that this rank holds, and
/// its own.
struct HeldPieces {
  std::vector<NodeWindow::Readers*> theirs, mine;
};

struct Group {
  MPI_Comm comm = MPI_COMM_NULL;
  int rank = 0, size = 1;
  MpiOptions options;
  std::shared_ptr<Queue> queue;
  std::vector<MPI_Request> requests;  ///< kept to save allocations; used by the running task only
  std::uint64_t id = 1, num_splits = 0, num_exchanges = 0;  ///< name an exchange, on all ranks alike
  std::shared_ptr<NodeWindow> window;                       ///< null: messages only
  std::vector<int> node_ranks;  ///< with a window: rank on this node of each rank of the group, or −1

  /// Takes over `handle` and makes it return error codes.
  Group(MPI_Comm handle, MpiOptions the_options, std::shared_ptr<Queue> the_queue);
  /// Uses the parent's window for the ranks it reaches. `parent` must hold every rank of this group, which is
  /// made from it with `color`.
  void share_window_of(Group& parent, int color);

  /// Sends and receives one piece per rank (index = peer), in messages of at most max_message_bytes, or by
  /// reading it in the send buffer of a rank of this node. The piece from this rank to itself is copied. The
  /// two ends of a piece must agree on its size.
  void exchange(std::span<const Piece> recvs, std::span<const Piece> sends);
  /// The same without copying what can be read where it is; returns where each rank's piece lies. `held` must
  /// be released, and reclaimed before `sends` are overwritten.   @pre there is a window
  std::vector<const void*> exchange_in_place(std::span<const Piece> recvs, std::span<const Piece> sends,
                                             HeldPieces& held);
  static void release(HeldPieces& held);             ///< any thread
  static bool is_reclaimed(const HeldPieces& held);  ///< any thread
  void reclaim(const HeldPieces& held);              ///< waits, in a task
  void all_reduce(TensorView inout, ReduceOp op);
  void broadcast(TensorView buffer, int root);
  /// A GatherBytes of the debug checks.
  void gather(const void* mine, void* all, std::int64_t num_bytes);

 private:
  /// Waits for `requests`. A caller blocks inside MPI; the communication thread polls and yields its core
  /// between polls, because MPI's own wait spins: with as many computing threads as cores that halved the
  /// speed of computing while a peer was late.
  void finish();
  bool on_node(int peer) const { return window && node_ranks[static_cast<std::size_t>(peer)] >= 0; }
  void start_messages(std::span<const Piece> recvs, std::span<const Piece> sends);
  void receive_message(const Piece& piece);
  void send_message(const Piece& piece);
  /// Posts pieces to ranks of this node and takes theirs; `use(piece, where)` gets what can be read in place
  /// and says whether it is done with it.
  template <typename Use>
  void exchange_notes(std::span<const Piece> recvs, std::span<const Piece> sends, HeldPieces& held, Use use);
  /// Between two looks at a window where nothing moves: leaves the core to others.
  void idle(int& looks);
  /// The calls MPI makes in one go are blocking when small (fastest) and non-blocking when big (then the
  /// communication thread runs them). All ranks decide alike, as MPI demands: the two kinds do not match.
  bool is_big(std::int64_t num_bytes) const { return num_bytes >= options.wake_bytes; }
  void all_reduce_small(TensorView inout, ReduceOp op);
  void all_reduce_sliced(TensorView inout, ReduceOp op);
  void all_reduce_library(TensorView inout, ReduceOp op);
};

}  // namespace nmoe::comm::detail
