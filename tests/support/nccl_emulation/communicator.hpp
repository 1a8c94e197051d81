#pragma once
// A communicator of the emulated NCCL: what is queued of it, its sockets, and the thread that serves its
// peers.
#include <sys/eventfd.h>

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "../cuda_emulation/streams.hpp"
#include "nccl.h"

namespace nmoe::emulation {

struct Transfer {
  bool sends;
  int peer;
  unsigned char* data;
  std::size_t num_bytes, done = 0;
};

/// The calls of a group.
struct Job {
  std::vector<Transfer> transfers;
  std::vector<std::function<void()>> afterwards;
  std::vector<std::unique_ptr<unsigned char[]>> memory;
  cudaStream_t stream = nullptr;
  std::set<int> peers;
  bool has_begun = false;
};

struct Peer {
  int data = -1, control = -1;
  bool is_greeted = false, has_greeted = false;
  std::int64_t knocks = 0, finished = 0;  ///< operations with it: begun by it, finished here
};

}  // namespace nmoe::emulation

/// Everything but `stop` under the lock of the streams.
struct ncclComm {
  const int rank, size;
  std::vector<nmoe::emulation::Peer> peers;
  std::thread thread;
  std::atomic<bool> stop{false};
  int wake = eventfd(0, EFD_NONBLOCK);
  ncclResult_t state = ncclInProgress;
  nmoe::emulation::Job open;                     ///< calls of a group that is not closed
  std::shared_ptr<nmoe::emulation::Job> closed;  ///< of one that NCCL has not queued yet
  int patience = 0;                              ///< questions until it is
  bool is_finalizing = false;
  struct Queued {
    std::shared_ptr<nmoe::emulation::Job> job;
    std::shared_ptr<nmoe::emulation::Point> end;
  };
  std::deque<Queued> queued;  ///< and not finished

  ncclComm(int its_rank, int its_size) : rank(its_rank), size(its_size) {}
  ~ncclComm();
  ncclComm(const ncclComm&) = delete;
  ncclComm& operator=(const ncclComm&) = delete;
  void signal() const;  ///< its thread looks round
};

namespace nmoe::emulation {

/// What the communicator's thread does from its start until `stop`.
void serve(ncclComm& comm, const std::string& id);
/// Queues the calls of the group that was closed, once NCCL has got round to it: ranks that exchange data for
/// the first time connect, so each waits for the other's call. Called when the host asks for the state.
void queue_closed(const std::shared_ptr<ncclComm>& comm);

}  // namespace nmoe::emulation
