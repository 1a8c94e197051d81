#pragma once
// Collectives between ranks. `Communicator` has a local version (one rank, really copies), an MPI version for
// host tensors whose calls one communication thread drains in program order (DESIGN 8), and two versions that
// also take tensors on GPUs (device_communicator.hpp). train, analysis, io and evaluation call it.
#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "neuronmoe/tensor/stream.hpp"
#include "neuronmoe/tensor/tensor.hpp"

namespace nmoe::comm {

enum class ReduceOp { sum, min, max };
constexpr auto enum_names(ReduceOp) {
  return std::to_array<EnumName<ReduceOp>>(
      {{ReduceOp::sum, "sum"}, {ReduceOp::min, "min"}, {ReduceOp::max, "max"}});
}

enum class Operation : std::uint8_t {
  all_reduce,
  all_gather_v,
  all_to_all_v,
  broadcast,
  barrier,
  split,
  close
};
constexpr auto enum_names(Operation) {
  // Named: the front end of nvcc 12 evaluates no std::to_array of a temporary one.
  constexpr EnumName<Operation> rows[] = {{Operation::all_reduce, "all_reduce"},
                                          {Operation::all_gather_v, "all_gather_v"},
                                          {Operation::all_to_all_v, "all_to_all_v"},
                                          {Operation::broadcast, "broadcast"},
                                          {Operation::barrier, "barrier"},
                                          {Operation::split, "split"},
                                          {Operation::close, "close"}};
  return std::to_array(rows);
}
inline constexpr std::size_t num_operations = enum_table<Operation>.size();

/// Calls and bytes per operation, counted exactly when a collective is started (DESIGN 6, "Counters").
/// `bytes_sent` is payload this rank hands to other ranks: its own rows never count.
struct CollectiveCounters {
  struct Entry {
    std::uint64_t calls = 0;
    std::int64_t bytes_sent = 0;
    bool operator==(const Entry&) const = default;
  };
  std::array<Entry, num_operations> entries{};
  Entry& operator[](Operation operation) { return entries[static_cast<std::size_t>(operation)]; }
  const Entry& operator[](Operation operation) const { return entries[static_cast<std::size_t>(operation)]; }
};

/// A collective in flight. `wait()` must be called once before the buffers are touched; it rethrows what went
/// wrong. Host tensors: the collective has finished when it returns. Device tensors: work queued from then on
/// on the stream that the collective was given comes after it; the host must synchronize() that stream before
/// it reads a result.
class [[nodiscard]] Work {
 public:
  Work() = default;  ///< already complete
  explicit Work(std::function<void()> wait) : wait_(std::move(wait)) {}
  Work(Work&& other) noexcept : wait_(std::exchange(other.wait_, nullptr)) {}
  Work& operator=(Work&& other) noexcept {
    wait_ = std::exchange(other.wait_, nullptr);
    return *this;
  }
  void wait() {
    if (auto f = std::exchange(wait_, nullptr)) f();
  }

 private:
  std::function<void()> wait_;
};

/// An all_to_all_v whose receiver reads the rows where they are: in `recv`, in `send` (its own), or in
/// another rank's send buffer.
class [[nodiscard]] InPlaceExchange {
 public:
  /// What an implementation fills in; `rows` may be read after `work`.
  struct State {
    std::vector<const void*> rows;           ///< per rank; unspecified where it sends none
    std::function<void()> release, reclaim;  ///< may be empty
  };
  InPlaceExchange() = default;
  InPlaceExchange(Work work, std::shared_ptr<State> state)
      : work_(std::move(work)), state_(std::move(state)) {}
  /// Waits for the exchange. Called before any other member; rethrows what went wrong.
  void wait() { work_.wait(); }
  const void* rows_of(int rank) const { return state_->rows[static_cast<std::size_t>(rank)]; }
  /// Tells the senders that the rows are not read any more and may be overwritten. Called once.
  void release() {
    if (state_ && state_->release) std::exchange(state_->release, nullptr)();
  }
  /// Returns when all ranks have released this rank's rows, so that `send` may be overwritten. Every rank
  /// must release an exchange before it reclaims it or a later one.
  void reclaim() {
    if (state_ && state_->reclaim) std::exchange(state_->reclaim, nullptr)();
  }

 private:
  Work work_;
  std::shared_ptr<State> state_;
};

/// A group of ranks. Every member function except rank/size is collective: all ranks of the group, same
/// order, and with debug checks on, a mismatch of operation, dtype or element count is an Error(internal) on
/// every rank. Buffers stay owned by the caller and must outlive the Work. Counts are rows of the leading
/// axis (int64). Zero rows are normal. float sums are taken in ascending rank order (same bits on every rank
/// and every run); bfloat16 accumulates in float32 and rounds once; min and max pass NaN on.
/// Tensors on a GPU need a communicator for them, and are read after everything that was queued on `stream`
/// before the call; all ranks pass tensors on the same kind of device to one call. `stream` only matters
/// then.
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual Work all_reduce(TensorView inout, ReduceOp op, Stream& stream) = 0;
  /// Gathers: recv = the rows of all ranks in rank order; counts[r] rows from rank r (known to all).
  virtual Work all_gather_v(TensorView recv, std::span<const std::int64_t> counts, ConstTensorView send,
                            Stream& stream) = 0;
  /// Sends each rank its rows and receives those of all ranks. Rows for rank r start after those for ranks <
  /// r, in both buffers.
  virtual Work all_to_all_v(TensorView recv, std::span<const std::int64_t> recv_counts, ConstTensorView send,
                            std::span<const std::int64_t> send_counts, Stream& stream) = 0;
  /// Does as all_to_all_v, with the same counters, but rows are not copied where the receiver can read them
  /// in the sender's buffer: on one node, if it was made by allocate_send. `recv` takes what comes as a
  /// message; it and `send` must stay as they are until `release` and `reclaim`. Holding one does not delay
  /// other exchanges.
  virtual InPlaceExchange all_to_all_in_place(TensorView recv, std::span<const std::int64_t> recv_counts,
                                              ConstTensorView send, std::span<const std::int64_t> send_counts,
                                              Stream& stream);
  /// Allocates host memory for the `send` of an exchange, uninitialized, 64-byte aligned: where the ranks of
  /// a node share memory the others read it there, which saves a copy. Give it back only when no rank can be
  /// reading it, and before close(). Not collective.
  virtual std::shared_ptr<std::byte> allocate_send(std::int64_t num_bytes);
  virtual Work broadcast(TensorView buffer, int root, Stream& stream) = 0;
  virtual void barrier() = 0;
  /// Makes a group of the ranks with equal color, ordered by key. Collective over this group.
  virtual std::unique_ptr<Communicator> split(int color, int key) = 0;
  /// Returns when everything queued so far has finished: call it before HDF5 or any other user of MPI.
  virtual void drain() = 0;
  /// Returns the MPI_Comm as an opaque pointer for io; null for the local communicator.
  virtual void* native() const = 0;
  /// Frees resources whose release is collective; destructors leak them instead (ENGINEERING 3.3).
  virtual void close() = 0;
  /// Returns the name of the last collective started, for the watchdog's report. Any thread may call it. Not
  /// collective.
  virtual std::string last_operation() const = 0;
  /// Returns how tensors on GPUs travel, for people; "" if they do not. Not collective.
  virtual std::string gpu_transport() const { return ""; }
  /// Returns what this communicator (not the groups split from it) has sent so far. Not collective.
  virtual const CollectiveCounters& counters() const { return counters_; }

 protected:
  CollectiveCounters counters_;  ///< implementations add to it on the caller's thread
};

/// Float all-reduces up to this many bytes gather everything and sum locally (one message round, not two).
inline constexpr std::int64_t default_small_reduce_bytes = 8 * 1024;
/// Returns the bytes that rank `rank` of `size` sends in an all-reduce of `count` elements: pure arithmetic,
/// for counters and plans.
std::int64_t all_reduce_bytes_sent(DType dtype, std::int64_t count, int rank, int size,
                                   std::int64_t small_reduce_bytes = default_small_reduce_bytes);

std::unique_ptr<Communicator> make_local_communicator();

// Conveniences on top of the interface (collective, CPU, blocking).
double all_reduce_sum(Communicator& comm, double value);
double all_reduce_max(Communicator& comm, double value);
std::int64_t all_reduce_sum(Communicator& comm, std::int64_t value);
std::int64_t all_reduce_max(Communicator& comm, std::int64_t value);
/// Concatenates the bytes of all ranks' strings: result[r] is rank r's.
std::vector<std::string> all_gather_strings(Communicator& comm, std::string_view text);
/// Returns rank `root`'s string on every rank.
std::string broadcast_string(Communicator& comm, std::string_view text, int root = 0);

}  // namespace nmoe::comm
