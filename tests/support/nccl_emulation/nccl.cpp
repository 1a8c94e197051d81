// The calls of the emulated NCCL.
#include "nccl.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "../cuda_emulation/memory.hpp"
#include "communicator.hpp"
#include "hooks.hpp"

using nmoe::emulation::Job;
using nmoe::emulation::Transfer;

namespace {

struct Registry {
  std::map<ncclComm_t, std::shared_ptr<ncclComm>> open;
  int num_aborted = 0;
};
Registry& registry() {
  static Registry only;
  return only;
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

ncclResult_t add(ncclComm_t comm, cudaStream_t stream, const std::function<void(Job&)>& calls) {
  ncclGroupStart();
  if (comm->open.stream != nullptr && comm->open.stream != stream) std::abort();
  comm->open.stream = stream;
  calls(comm->open);
  if (std::find(in_group.begin(), in_group.end(), comm) == in_group.end()) in_group.push_back(comm);
  return ncclGroupEnd();
}

/// Ends the communicator's thread; what is queued of it counts as run.
ncclResult_t end(ncclComm_t comm) {
  std::shared_ptr<ncclComm> owner;
  {
    const auto held = nmoe::emulation::lock();
    const auto found = registry().open.find(comm);
    if (found == registry().open.end()) std::abort();  // twice
    owner = std::move(found->second);
    registry().open.erase(found);
  }
  owner->stop = true;
  owner->signal();
  owner->thread.join();
  return ncclSuccess;
}

/// Writes the lines about a rank's connections into NCCL_DEBUG_FILE, where NCCL_DEBUG = INFO asks for a log.
/// NMOE_EMULATED_NCCL_WAY is the way they tell of, else P2P/CUMEM/read.
void log_connections(int rank, int size) {
  const char *const level = std::getenv("NCCL_DEBUG"), *const path = std::getenv("NCCL_DEBUG_FILE"),
                    *const way = std::getenv("NMOE_EMULATED_NCCL_WAY");
  if (level == nullptr || path == nullptr || std::string(level) != "INFO" || size == 1) return;
  std::ofstream(path, std::ios::app) << "host:1:1 [0] NCCL INFO Channel 00/0 : " << rank << "[0] -> "
                                     << (rank + 1) % size << "[0] via "
                                     << (way == nullptr ? "P2P/CUMEM/read" : way) << "\n";
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
  log_connections(rank, size);
  const auto made = std::make_shared<ncclComm>(rank, size);
  *comm = made.get();
  const auto held = nmoe::emulation::lock();
  registry().open[*comm] = made;
  made->thread =
      std::thread([made, name = std::string(id.internal)] { nmoe::emulation::serve(*made, name); });
  return ncclInProgress;
}
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* state) {
  const auto held = nmoe::emulation::lock();
  if (comm->closed != nullptr) nmoe::emulation::queue_closed(registry().open.at(comm));
  const bool is_ending = comm->is_finalizing && (!comm->queued.empty() || comm->patience-- > 0);
  const bool is_busy = comm->closed != nullptr || is_ending;
  *state = comm->state == ncclSuccess && is_busy ? ncclInProgress : comm->state;
  return ncclSuccess;
}
ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  const auto held = nmoe::emulation::lock();
  if (comm->state != ncclSuccess || comm->closed != nullptr) return ncclInvalidUsage;
  comm->is_finalizing = true;
  comm->patience = 2;
  comm->signal();
  return ncclInProgress;
}
ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  {
    const auto held = nmoe::emulation::lock();
    if (!comm->queued.empty()) std::abort();                                  // work of it is under way
    if (comm->is_finalizing && comm->patience >= 0) return ncclInvalidUsage;  // nobody has asked for its end
  }
  return end(comm);
}
ncclResult_t ncclCommAbort(ncclComm_t comm) {
  nmoe::emulation::note_work();
  {
    const auto held = nmoe::emulation::lock();
    ++registry().num_aborted;
  }
  return end(comm);
}
ncclResult_t ncclGroupStart() {
  ++group_depth;
  return ncclSuccess;
}
ncclResult_t ncclGroupEnd() {
  if (--group_depth > 0) return ncclSuccess;
  const auto held = nmoe::emulation::lock();
  ncclResult_t result = ncclInProgress;
  for (const ncclComm_t comm : in_group) {
    if (comm->closed != nullptr || comm->peers.empty())
      result = ncclInvalidUsage;  // the call before is under way
    comm->closed = std::make_shared<Job>(std::exchange(comm->open, {}));
    for (const Transfer& t : comm->closed->transfers) {
      if (t.peer != comm->rank) comm->closed->peers.insert(t.peer);
    }
    comm->patience = 2;
  }
  in_group.clear();
  return result;
}
ncclResult_t ncclSend(const void* data, std::size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return add(comm, stream, [&](Job& job) { job.transfers.push_back(to(peer, data, count * size_of(type))); });
}
ncclResult_t ncclRecv(void* data, std::size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return add(comm, stream,
             [&](Job& job) { job.transfers.push_back(from(peer, data, count * size_of(type))); });
}
ncclResult_t ncclAllGather(const void* send, void* recv, std::size_t send_count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream) {
  return add(comm, stream, [&](Job& job) {
    const std::size_t bytes = send_count * size_of(type);
    for (int r = 0; r < comm->size; ++r) {
      job.transfers.push_back(to(r, send, bytes));
      job.transfers.push_back(
          from(r, static_cast<unsigned char*>(recv) + static_cast<std::size_t>(r) * bytes, bytes));
    }
  });
}
ncclResult_t ncclBroadcast(const void* send, void* recv, std::size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream) {
  return add(comm, stream, [&](Job& job) {
    const std::size_t bytes = count * size_of(type);
    if (comm->rank == root) {
      for (int r = 0; r < comm->size; ++r) job.transfers.push_back(to(r, send, bytes));
    }
    job.transfers.push_back(from(root, recv, bytes));
  });
}
ncclResult_t ncclAllReduce(const void* send, void* recv, std::size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
  if (type != ncclUint8 && type != ncclInt32 && type != ncclInt64) return ncclInvalidArgument;
  return add(comm, stream, [&](Job& job) {
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
  const auto held = nmoe::emulation::lock();
  for (const auto& [comm, owner] : registry().open) comm->state = ncclRemoteError;
}
int num_open_nccl_communicators() {
  const auto held = nmoe::emulation::lock();
  return static_cast<int>(registry().open.size());
}
int num_aborted_nccl_communicators() {
  const auto held = nmoe::emulation::lock();
  return registry().num_aborted;
}

}  // namespace nmoe::emulation
