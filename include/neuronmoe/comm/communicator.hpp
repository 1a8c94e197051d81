#pragma once
// Collectives between ranks. `Communicator` has a local version (one rank, really copies) and an MPI version
// whose calls one communication thread drains in program order (DESIGN 8). train, analysis, io and evaluation
// call it.
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

/// A collective under way. `wait()` must be called once before the buffers are touched; it rethrows what went
/// wrong.
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

/// A group of ranks. Every member function except rank/size is collective: all ranks of the group, same
/// order, and with debug checks on, a mismatch of operation, dtype or element count is an Error(internal) on
/// every rank. Buffers stay owned by the caller and must outlive the Work. Counts are rows of the leading
/// axis (int64). Zero rows are normal. float sums are taken in ascending rank order (same bits on every rank
/// and every run).
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual Work all_reduce(TensorView inout, ReduceOp op, Stream& stream) = 0;
  /// recv = the rows of all ranks in rank order; counts[r] rows from rank r (known to all).
  virtual Work all_gather_v(TensorView recv, std::span<const std::int64_t> counts, ConstTensorView send,
                            Stream& stream) = 0;
  /// Rows for rank r start after those for ranks < r, in both buffers.
  virtual Work all_to_all_v(TensorView recv, std::span<const std::int64_t> recv_counts, ConstTensorView send,
                            std::span<const std::int64_t> send_counts, Stream& stream) = 0;
  virtual Work broadcast(TensorView buffer, int root, Stream& stream) = 0;
  virtual void barrier() = 0;
  /// Group of the ranks with equal colour, ordered by key. Collective over this group.
  virtual std::unique_ptr<Communicator> split(int color, int key) = 0;
  /// Returns when everything queued so far has finished: call it before HDF5 or any other user of MPI.
  virtual void drain() = 0;
  /// The MPI_Comm as an opaque pointer for io; null for the local communicator.
  virtual void* native() const = 0;
  /// Frees what needs a collective call. Destructors leak instead (ENGINEERING 3.3).
  virtual void close() = 0;
  /// Name of the last collective started, for the watchdog's report.
  virtual std::string last_operation() const = 0;
};

std::unique_ptr<Communicator> make_local_communicator();

// Conveniences on top of the interface (collective, CPU, blocking).
double all_reduce_sum(Communicator& comm, double value);
double all_reduce_max(Communicator& comm, double value);
std::int64_t all_reduce_sum(Communicator& comm, std::int64_t value);
std::int64_t all_reduce_max(Communicator& comm, std::int64_t value);
/// Concatenates the bytes of all ranks' strings: result[r] is rank r's.
std::vector<std::string> all_gather_strings(Communicator& comm, std::string_view text);
/// Rank `root`'s string on every rank.
std::string broadcast_string(Communicator& comm, std::string_view text, int root = 0);

}  // namespace nmoe::comm
