#pragma once
// Memory that the ranks of one node share: send buffers that the others read in place, and a board on which a
// rank tells another where a piece lies. Used by Group inside tasks of the Queue.
#include <mpi.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "neuronmoe/comm/communicator.hpp"

namespace nmoe::comm::detail {

/// One window serves all groups of a process: tasks run one at a time and in program order on every rank, so
/// two ranks agree on the order of the pieces between them. The destructor unmaps; it is not collective.
class NodeWindow : public std::enable_shared_from_this<NodeWindow> {
 public:
  /// Null where this rank is alone on its node. `world` must be the communicator of `comm`, without a window
  /// yet.
  /// @param num_bytes of send buffers per rank at most; memory is taken as they are allocated
  /// @throws Error(config) on every rank if some node cannot share memory   Collective over `comm`.
  static std::shared_ptr<NodeWindow> make(Communicator& world, MPI_Comm comm, std::int64_t num_bytes);

  NodeWindow(const NodeWindow&) = delete;
  NodeWindow& operator=(const NodeWindow&) = delete;
  ~NodeWindow();

  /// For each rank of the `comm` of make() its rank on this node, −1 if it is on another one.
  const std::vector<int>& node_ranks() const { return node_ranks_; }
  /// A send buffer; null if there is no room. Any thread.
  std::shared_ptr<std::byte> allocate(std::int64_t num_bytes);

  /// How many readers a send buffer still has; it stands before the buffer.
  using Readers = std::atomic<std::uint64_t>;
  /// A piece found on the board.
  struct Note {
    const std::byte* data = nullptr;  ///< null: it comes as a message
    Readers* readers = nullptr;       ///< of the buffer it lies in; release() when it has been read
  };
  /// Tells `to` of a piece of this rank: in place if it lies in a send buffer and is not short, else as a
  /// message. False in `room` if the board is full of pieces that `to` has not taken; then try again later.
  struct Posted {
    bool room = false;
    Readers* readers =
        nullptr;  ///< of the buffer, null for a message; it may be overwritten at is_released()
  };
  Posted post(int to, std::uint64_t exchange, const std::byte* data, std::int64_t num_bytes,
              std::int64_t short_bytes);
  /// Whether the next piece from a rank has been posted and belongs to the same exchange; takes it. A rank
  /// that has gone elsewhere (to the agreement on its error) is waited for, as for a message. The place on
  /// the board is free then, the buffer is not: how long pieces are held never keeps others from being
  /// posted.
  /// @throws Error(internal) if it has another size than expected
  bool take(int from, std::uint64_t exchange, std::int64_t num_bytes, Note& note);
  /// The rank that posted it may overwrite it.
  static void release(Readers& readers) { readers.fetch_sub(1, std::memory_order_release); }
  /// Whether everybody has released the buffer.
  static bool is_released(const Readers& readers) { return readers.load(std::memory_order_acquire) == 0; }

 private:
  /// Pieces from one rank to another that may be posted and not yet taken.
  static constexpr std::uint64_t board_length = 16;
  struct Entry {
    alignas(64) std::atomic<std::uint64_t> posted{0};  ///< times this entry was used
    std::uint64_t exchange = 0;
    std::int64_t buffer = 0, offset = 0, num_bytes = 0;  ///< buffer −1: a message
    alignas(64) std::atomic<std::uint64_t> taken{0};
  };
  using Board = std::array<Entry, board_length>;

  NodeWindow(int rank, int size, std::int64_t num_bytes);
  std::int64_t boards_bytes() const;
  std::int64_t part_bytes() const { return boards_bytes() + heap_bytes_; }
  void create_part(const std::string& name);
  void attach_part(int rank, const std::string& name);
  std::byte* heap(int rank) const { return parts_[static_cast<std::size_t>(rank)] + boards_bytes(); }
  Entry& entry(int from, int to, std::uint64_t number) const;
  Readers& readers(int rank, std::int64_t buffer) const;
  /// Offset of the send buffer that holds an address, −1 if none does.
  std::int64_t buffer_of(const std::byte* data);
  void give_back(std::int64_t offset);

  int rank_, size_;
  std::int64_t heap_bytes_;
  std::vector<std::byte*> parts_;  // of each rank: a board for every rank, and its send buffers
  std::vector<int> node_ranks_;
  std::vector<std::uint64_t> num_posted_, num_taken_;  // per rank
  int file_ = -1;

  std::mutex mutex_;                                  // of what follows
  std::map<std::int64_t, std::int64_t> free_, used_;  // offset and size in the heap
  std::int64_t committed_ = 0;                        // so far the file has memory
};

}  // namespace nmoe::comm::detail
