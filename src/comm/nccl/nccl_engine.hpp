#pragma once
// What all NCCL groups of a process share: the stream their work goes through, memory for sums, and the
// thread that watches. NCCL runs non-blocking: each call is followed until NCCL has queued it, with a time
// limit, so the host never sits inside NCCL (ENGINEERING 3.6).
#include <nccl.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "../call.hpp"
#include "neuronmoe/comm/device_communicator.hpp"
#include "neuronmoe/tensor/device.hpp"

namespace nmoe::comm::detail {

/// The communicator of one group; null before it is made and after it was closed or aborted.
struct NcclHandle {
  ncclComm_t comm = nullptr;
};

class NcclEngine {
 public:
  /// @param who names this rank in messages
  NcclEngine(const NcclOptions& options, std::string who);
  /// Aborts what is still open and waits a few seconds for that.
  ~NcclEngine();
  NcclEngine(const NcclEngine&) = delete;
  NcclEngine& operator=(const NcclEngine&) = delete;

  const NcclOptions& options() const { return options_; }
  Stream& stream() { return stream_.stream(); }
  cudaStream_t native_stream() { return static_cast<cudaStream_t>(stream().native()); }
  /// Device memory that grows to the largest request and stays; in the order of stream().
  std::byte* scratch(std::int64_t num_bytes);

  /// Joins the group of `size` ranks that share `id`. Collective over them.
  std::shared_ptr<NcclHandle> connect(const ncclUniqueId& id, int rank, int size);
  /// Returns when NCCL has let go of the group; at once after a failure. Collective over it.
  void disconnect(NcclHandle& handle);
  /// Gives the group up in a helper thread: NCCL may block in it.
  void give_up(NcclHandle& handle);

  /// Runs `start(comm)`, NCCL calls on native_stream(), as one group, and returns when they are queued.
  void queue(NcclHandle& handle, const Call& call, const std::function<void(ncclComm_t)>& start);
  /// stream() goes on after what is on `caller` now.
  void follow(Stream& caller);
  /// The end of what is on stream() now, watched until it is reached.
  std::shared_ptr<Event> mark_end(const Call& call);
  /// Returns when stream() is empty.
  void drain();
  void throw_if_failed();
  /// The oldest collective that has not finished, or "".
  std::string running();

 private:
  using Clock = std::chrono::steady_clock;
  struct Flight {
    std::shared_ptr<Event> end;
    Call call;
    Clock::time_point since;  ///< when it was queued, or became the oldest
  };

  ncclResult_t state_of(NcclHandle& handle);
  void settle(NcclHandle& handle, const std::string& what);
  bool too_late(Clock::time_point since) const;
  // With the mutex held:
  void fail(const std::string& message);
  void check_failure() const;
  void forget_finished();
  void inspect();
  void watch();

  const NcclOptions options_;
  const std::string who_;
  /// The GPU of the thread that made this. Every other thread chooses it before it calls CUDA or NCCL: else
  /// it would work in a context of its own on GPU 0.
  const int device_ = current_cuda_device().index;
  OwnedStream stream_{Device::cuda};
  Event start_{Device::cuda};
  Tensor scratch_;

  std::mutex mutex_;  ///< of everything below, and of every call into NCCL
  std::condition_variable stopped_;
  std::vector<std::shared_ptr<NcclHandle>> handles_;
  std::vector<std::shared_ptr<Event>> events_;  ///< free ones are held by nobody else
  std::deque<Flight> flights_;
  std::vector<std::future<void>> aborts_;
  std::string failure_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace nmoe::comm::detail
