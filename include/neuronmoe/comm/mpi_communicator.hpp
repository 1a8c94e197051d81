#pragma once
// The MPI version of `Communicator` for host tensors. app makes one for the world after MPI_Init_thread and
// splits it; train, io, analysis and evaluation only see the interface.
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "neuronmoe/comm/communicator.hpp"

namespace nmoe::comm {

/// How ranks of one node pass pieces of an all-to-all or an all-gather to each other: as MPI's messages, or
/// out of send buffers that all of them can read (Communicator::allocate_send). The bits are the same.
enum class OnNode { mpi, shared };
constexpr auto enum_names(OnNode) {
  return std::to_array<EnumName<OnNode>>({{OnNode::mpi, "mpi"}, {OnNode::shared, "shared"}});
}

struct MpiOptions {
  /// Compare operation, dtype, counts and sequence number over all ranks before each collective. A mismatch
  /// is an Error(internal) on every rank naming both sides. Costs one small all-gather per call.
  bool debug_checks = false;
  /// Largest single MPI message in bytes (MPI counts are `int`): longer ones travel in pieces.
  std::int64_t max_message_bytes = std::int64_t{1} << 30;
  std::int64_t small_reduce_bytes = default_small_reduce_bytes;
  /// Collectives that move at least this many bytes wake the communication thread at once, so that they
  /// overlap with computing. Smaller ones are left for whoever waits next: waking costs more than they do.
  std::int64_t wake_bytes = 64 * 1024;
  /// Ranks on different nodes send messages either way.
  OnNode on_node = OnNode::mpi;
  /// Most memory of a rank's shared send buffers; it is taken as they are allocated. What finds no room there
  /// lies in ordinary memory and is sent.
  std::int64_t window_bytes = std::int64_t{1} << 29;
  /// Called after each collective that finished, by the thread that ran it: then every rank of the group
  /// lives.
  std::function<void()> on_finished;
  /// Shorter pieces are sent even from there: a message need not wait for its reader.
  std::int64_t in_place_bytes = 16 * 1024;
};

/// What became of a wish, and why, in words for the log.
struct OnNodeChoice {
  OnNode on_node;
  std::string reason;
};
/// Returns what is wanted; without a wish, `shared` where some node has two ranks and every such node can
/// share memory (tried here), else `mpi`. The same on every rank. Collective.
/// @pre `world` was made by make_mpi_communicator
OnNodeChoice choose_on_node(Communicator& world, std::optional<OnNode> wanted,
                            const MpiOptions& options = {});

/// Duplicates `*static_cast<MPI_Comm*>(mpi_comm)`, so our traffic never meets anybody else's. Groups made by
/// `split` share its queue and its one communication thread.
/// @pre MPI was initialized with at least MPI_THREAD_SERIALIZED   @throws Error(config) otherwise, and with
/// OnNode::shared on every rank if some node cannot share memory
/// Collective: yes, over that communicator; so is `close()`, which frees it. The destructor leaks instead.
std::unique_ptr<Communicator> make_mpi_communicator(void* mpi_comm, const MpiOptions& options = {});

}  // namespace nmoe::comm
