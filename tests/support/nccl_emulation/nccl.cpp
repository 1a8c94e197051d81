// Each pair of ranks of a group has a socket. A group of calls becomes one job in a thread: all its transfers
// make progress side by side, then the sums of all-reduces are taken.
#include "nccl.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "../cuda_emulation/hooks.hpp"
#include "../cuda_emulation/memory.hpp"
#include "hooks.hpp"

namespace {

struct Transfer {
  bool sends;
  int peer;
  unsigned char* data;
  std::size_t num_bytes, done = 0;
};

struct Job {
  std::vector<Transfer> transfers;
  std::vector<std::function<void()>> afterwards;
  std::vector<std::unique_ptr<unsigned char[]>> memory;
};

struct Registry {
  std::mutex mutex;
  std::set<ncclComm_t> open;
  int num_aborted = 0;
};
Registry& registry() {
  static Registry only;
  return only;
}

}  // namespace

struct ncclComm {
  int rank = 0, size = 1;
  std::vector<int> sockets;
  std::thread worker;
  std::atomic<ncclResult_t> state{ncclSuccess};
  std::atomic<bool> stop{false};
  Job job;  ///< of the group that is open

  ~ncclComm() {
    stop = true;
    if (worker.joinable()) worker.join();
    for (const int s : sockets) {
      if (s >= 0) close(s);
    }
  }
  /// In a thread; until it is done the state is "in progress".
  template <typename Body>
  void start(Body body) {
    if (worker.joinable()) worker.join();
    if (state != ncclSuccess) return;
    state = ncclInProgress;
    worker = std::thread([this, body = std::move(body)]() mutable {
      const bool ok = body();
      ncclResult_t expected = ncclInProgress;  // unless a peer was lost meanwhile
      state.compare_exchange_strong(expected, ok ? ncclSuccess : ncclRemoteError);
    });
  }
};

namespace {

sockaddr_un address_of(const std::string& id, int rank, socklen_t& length) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string name = "nmoe-nccl-" + id + "-" + std::to_string(rank);  // no file: an abstract address
  std::memcpy(address.sun_path + 1, name.data(), name.size());
  length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  return address;
}

void nap() {
  std::this_thread::sleep_for(std::chrono::microseconds(200));
}

/// Listens, dials every lower rank and is dialled by every higher one.
bool meet(ncclComm& comm, const std::string& id) {
  socklen_t length = 0;
  const sockaddr_un mine = address_of(id, comm.rank, length);
  const int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
  bool ok = bind(listener, reinterpret_cast<const sockaddr*>(&mine), length) == 0 &&
            listen(listener, comm.size) == 0;
  for (int peer = 0; ok && peer < comm.rank; ++peer) {
    const sockaddr_un theirs = address_of(id, peer, length);
    const int s = socket(AF_UNIX, SOCK_STREAM, 0);
    while (connect(s, reinterpret_cast<const sockaddr*>(&theirs), length) != 0) {
      if (comm.stop) return false;
      nap();
    }
    ok = write(s, &comm.rank, sizeof(int)) == sizeof(int);
    comm.sockets[static_cast<std::size_t>(peer)] = s;
  }
  for (int left = comm.size - 1 - comm.rank; ok && left > 0;) {
    const int s = accept(listener, nullptr, nullptr);
    if (s < 0) {
      if (comm.stop) return false;
      nap();
      continue;
    }
    int peer = -1;
    ok = read(s, &peer, sizeof(int)) == sizeof(int) && peer > comm.rank && peer < comm.size;
    if (ok) comm.sockets[static_cast<std::size_t>(peer)] = s;
    --left;
  }
  close(listener);
  for (const int s : comm.sockets) {
    if (s >= 0) fcntl(s, F_SETFL, fcntl(s, F_GETFL) | O_NONBLOCK);
  }
  return ok;
}

void copy_to_self(int rank, std::vector<Transfer>& transfers) {
  auto in = transfers.begin();
  for (Transfer& out : transfers) {
    if (out.peer != rank || !out.sends) continue;
    while (in != transfers.end() && (in->peer != rank || in->sends)) ++in;
    if (in == transfers.end() || in->num_bytes != out.num_bytes) std::abort();  // NCCL would hang
    std::memmove(in->data, out.data, out.num_bytes);
    in->done = out.done = out.num_bytes;
    ++in;
  }
}

/// Moves what the sockets take; only the first unfinished transfer of each direction and peer may move.
/// Returns false when a peer is gone.
bool advance(ncclComm& comm, std::vector<Transfer>& transfers, bool& finished) {
  std::set<std::pair<bool, int>> busy;
  finished = true;
  for (Transfer& t : transfers) {
    if (t.done == t.num_bytes) continue;
    finished = false;
    if (!busy.insert({t.sends, t.peer}).second) continue;
    const int s = comm.sockets[static_cast<std::size_t>(t.peer)];
    const ssize_t moved = t.sends ? send(s, t.data + t.done, t.num_bytes - t.done, MSG_NOSIGNAL)
                                  : recv(s, t.data + t.done, t.num_bytes - t.done, 0);
    if (moved == 0 || (moved < 0 && errno != EAGAIN && errno != EWOULDBLOCK)) return false;
    if (moved > 0) t.done += static_cast<std::size_t>(moved);
  }
  return true;
}

bool run(ncclComm& comm, Job& job) {
  // The kernel cannot touch protected pages either, so device memory is open while bytes move.
  const nmoe::emulation::DeviceAccess access;
  copy_to_self(comm.rank, job.transfers);
  for (bool finished = false;;) {
    if (!advance(comm, job.transfers, finished)) return false;
    if (finished) break;
    if (comm.stop) return false;
    std::this_thread::yield();
  }
  for (const auto& step : job.afterwards) step();
  return true;
}

std::size_t size_of(ncclDataType_t type) {
  switch (type) {
    case ncclUint8:
      return 1;
    case ncclBfloat16:
      return 2;
    case ncclInt32:
    case ncclFloat32:
      return 4;
    default:
      return 8;
  }
}

template <typename T>
void reduce(ncclRedOp_t op, const unsigned char* parts, int num_parts, std::size_t count, void* result) {
  const T* x = reinterpret_cast<const T*>(parts);
  T* out = static_cast<T*>(result);
  for (std::size_t i = 0; i < count; ++i) {
    T total = x[i];
    for (int r = 1; r < num_parts; ++r) {
      const T v = x[static_cast<std::size_t>(r) * count + i];
      total = op == ncclSum   ? static_cast<T>(total + v)
              : op == ncclMin ? std::min(total, v)
                              : std::max(total, v);
    }
    out[i] = total;
  }
}

int group_depth = 0;
std::vector<ncclComm_t> in_group;

ncclResult_t add(ncclComm_t comm, const std::function<void(Job&)>& calls) {
  ncclGroupStart();
  calls(comm->job);
  if (std::find(in_group.begin(), in_group.end(), comm) == in_group.end()) in_group.push_back(comm);
  return ncclGroupEnd();
}

Transfer to(int peer, const void* data, std::size_t bytes) {
  return {true, peer, static_cast<unsigned char*>(const_cast<void*>(data)), bytes};
}
Transfer from(int peer, void* data, std::size_t bytes) {
  return {false, peer, static_cast<unsigned char*>(data), bytes};
}

}  // namespace

ncclResult_t ncclGetVersion(int* version) {
  *version = 22809;
  return ncclSuccess;
}
const char* ncclGetErrorString(ncclResult_t result) {
  return result == ncclRemoteError ? "remote process exited or there was a network error" : "emulated error";
}
ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  static int next = 0;
  std::snprintf(id->internal, sizeof(id->internal), "%d-%d", getpid(), next++);
  return ncclSuccess;
}
ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int size, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  if (config == nullptr || config->blocking != 0 || rank < 0 || rank >= size) return ncclInvalidUsage;
  *comm = new ncclComm;
  (*comm)->rank = rank;
  (*comm)->size = size;
  (*comm)->sockets.assign(static_cast<std::size_t>(size), -1);
  {
    const std::lock_guard lock(registry().mutex);
    registry().open.insert(*comm);
  }
  (*comm)->start([c = *comm, name = std::string(id.internal)] { return meet(*c, name); });
  return ncclInProgress;
}
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* state) {
  *state = comm->state;
  return ncclSuccess;
}
ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  return comm->state == ncclSuccess ? ncclSuccess : ncclInvalidUsage;
}
ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  {
    const std::lock_guard lock(registry().mutex);
    if (registry().open.erase(comm) == 0) std::abort();  // twice
  }
  delete comm;
  return ncclSuccess;
}
ncclResult_t ncclCommAbort(ncclComm_t comm) {
  int device = 0;
  static_cast<void>(cudaGetDevice(&device));
  nmoe::emulation::used_devices |= 1U << device;
  {
    const std::lock_guard lock(registry().mutex);
    ++registry().num_aborted;
  }
  return ncclCommDestroy(comm);
}
ncclResult_t ncclGroupStart() {
  ++group_depth;
  return ncclSuccess;
}
ncclResult_t ncclGroupEnd() {
  if (--group_depth > 0) return ncclSuccess;
  for (const ncclComm_t comm : in_group) {
    auto job = std::make_shared<Job>(std::move(comm->job));
    comm->job = {};
    comm->start([comm, job] { return run(*comm, *job); });
  }
  in_group.clear();
  return ncclInProgress;
}
ncclResult_t ncclSend(const void* data, std::size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t) {
  return add(comm, [&](Job& job) { job.transfers.push_back(to(peer, data, count * size_of(type))); });
}
ncclResult_t ncclRecv(void* data, std::size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t) {
  return add(comm, [&](Job& job) { job.transfers.push_back(from(peer, data, count * size_of(type))); });
}
ncclResult_t ncclAllGather(const void* send, void* recv, std::size_t send_count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t) {
  return add(comm, [&](Job& job) {
    const std::size_t bytes = send_count * size_of(type);
    for (int r = 0; r < comm->size; ++r) {
      job.transfers.push_back(to(r, send, bytes));
      job.transfers.push_back(
          from(r, static_cast<unsigned char*>(recv) + static_cast<std::size_t>(r) * bytes, bytes));
    }
  });
}
ncclResult_t ncclBroadcast(const void* send, void* recv, std::size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t) {
  return add(comm, [&](Job& job) {
    const std::size_t bytes = count * size_of(type);
    if (comm->rank == root) {
      for (int r = 0; r < comm->size; ++r) job.transfers.push_back(to(r, send, bytes));
    }
    job.transfers.push_back(from(root, recv, bytes));
  });
}
ncclResult_t ncclAllReduce(const void* send, void* recv, std::size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t) {
  if (type != ncclUint8 && type != ncclInt32 && type != ncclInt64) return ncclInvalidArgument;
  return add(comm, [&](Job& job) {
    const std::size_t bytes = count * size_of(type);
    job.memory.push_back(std::make_unique<unsigned char[]>(bytes * static_cast<std::size_t>(comm->size)));
    unsigned char* parts = job.memory.back().get();
    for (int r = 0; r < comm->size; ++r) {
      job.transfers.push_back(to(r, send, bytes));
      job.transfers.push_back(from(r, parts + static_cast<std::size_t>(r) * bytes, bytes));
    }
    job.afterwards.push_back([=] {
      const auto run_as = type == ncclUint8   ? reduce<unsigned char>
                          : type == ncclInt32 ? reduce<std::int32_t>
                                              : reduce<std::int64_t>;
      run_as(op, parts, comm->size, count, recv);
    });
  });
}

namespace nmoe::emulation {

void lose_nccl_peers() {
  const std::lock_guard lock(registry().mutex);
  for (const ncclComm_t comm : registry().open) comm->state = ncclRemoteError;
}
int num_open_nccl_communicators() {
  const std::lock_guard lock(registry().mutex);
  return static_cast<int>(registry().open.size());
}
int num_aborted_nccl_communicators() {
  const std::lock_guard lock(registry().mutex);
  return registry().num_aborted;
}

}  // namespace nmoe::emulation
