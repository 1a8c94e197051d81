#pragma once
// One MPI communicator and the message patterns on it. Everything here runs inside a task of the Queue.
#include <mpi.h>

#include <memory>
#include <span>
#include <vector>

#include "neuronmoe/comm/mpi_communicator.hpp"
#include "queue.hpp"

namespace nmoe::comm::detail {

/// Bytes to or from one rank.
struct Piece {
  int peer;
  std::byte* data;
  std::int64_t num_bytes;
};

struct Group {
  MPI_Comm comm = MPI_COMM_NULL;
  int rank = 0, size = 1;
  MpiOptions options;
  std::shared_ptr<Queue> queue;
  std::vector<MPI_Request> requests;  ///< kept to save allocations; used by the running task only

  /// Takes over `handle` and makes it return error codes.
  Group(MPI_Comm handle, MpiOptions the_options, std::shared_ptr<Queue> the_queue);

  /// Sends and receives one piece per rank (index = peer), in messages of at most max_message_bytes. The
  /// piece from this rank to itself is copied. The two ends of a piece must agree on its size.
  void exchange(std::span<const Piece> recvs, std::span<const Piece> sends);
  void all_reduce(TensorView inout, ReduceOp op);
  void broadcast(TensorView buffer, int root);

 private:
  /// Waits for `requests`. A caller blocks inside MPI; the communication thread polls and yields its core
  /// between polls, because MPI's own wait spins: with as many computing threads as cores that halved the
  /// speed of computing while a peer was late.
  void finish();
  /// The calls MPI makes in one go are blocking when small (fastest) and non-blocking when big (then the
  /// communication thread runs them). All ranks decide alike, as MPI demands: the two kinds do not match.
  bool is_big(std::int64_t num_bytes) const { return num_bytes >= options.wake_bytes; }
  void all_reduce_small(TensorView inout, ReduceOp op);
  void all_reduce_sliced(TensorView inout, ReduceOp op);
  void all_reduce_library(TensorView inout, ReduceOp op);
};

/// True if MPI_Allreduce may do it: integers give the same bits in any order.
bool order_matters(DType dtype);

/// Debug checks: throws the same Error(internal) on every rank of the group unless all ranks make the same
/// call. `invalid` is what is wrong with this rank's arguments ("" if nothing).
void compare_calls(Group& group, const Call& call, const std::string& invalid);
/// Also compares the rows each rank sends with what the other side expects.
void compare_row_counts(Group& group, std::span<const std::int64_t> send_counts,
                        std::span<const std::int64_t> recv_counts);

}  // namespace nmoe::comm::detail
