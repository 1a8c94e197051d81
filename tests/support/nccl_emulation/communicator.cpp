// Each pair of ranks of a group has two sockets, for data and for control. A group of calls becomes one
// operation of its stream: all its transfers make progress side by side, then the sums of all-reduces are
// taken. A rank whose operation has begun knocks at those it exchanges data with, whose threads then let
// theirs run: so work is as late as the host and the peers allow.
#include "communicator.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <map>
#include <utility>

#include "../cuda_emulation/memory.hpp"

ncclComm::~ncclComm() {
  for (const auto& peer : peers) {
    if (peer.data >= 0) close(peer.data);
    if (peer.control >= 0) close(peer.control);
  }
  close(wake);
}
void ncclComm::signal() const {
  const std::uint64_t one = 1;
  static_cast<void>(!write(wake, &one, sizeof(one)));
}

namespace nmoe::emulation {

namespace {

constexpr unsigned char hello = 'h', knock = 'k';

void nap() {
  std::this_thread::sleep_for(std::chrono::microseconds(200));
}

sockaddr_un address_of(const std::string& id, int rank, socklen_t& length) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string name = "nmoe-nccl-" + id + "-" + std::to_string(rank);  // no file: an abstract address
  std::memcpy(address.sun_path + 1, name.data(), name.size());
  length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  return address;
}

/// Dials `peer` for one of the two sockets; -1 if the communicator was given up.
int dial(const ncclComm& comm, const std::string& id, int peer, int kind) {
  socklen_t length = 0;
  const sockaddr_un theirs = address_of(id, peer, length);
  const int s = socket(AF_UNIX, SOCK_STREAM, 0);
  while (connect(s, reinterpret_cast<const sockaddr*>(&theirs), length) != 0) {
    if (comm.stop) return -1;
    nap();
  }
  const int introduction[] = {comm.rank, kind};
  return write(s, introduction, sizeof(introduction)) == sizeof(introduction) ? s : -1;
}

/// Listens, dials every lower rank and is dialled by every higher one.
bool meet(const ncclComm& comm, const std::string& id, std::vector<Peer>& peers) {
  socklen_t length = 0;
  const sockaddr_un mine = address_of(id, comm.rank, length);
  const int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
  bool ok = bind(listener, reinterpret_cast<const sockaddr*>(&mine), length) == 0 &&
            listen(listener, 2 * comm.size) == 0;
  for (int r = 0; ok && r < comm.rank; ++r) {
    Peer& peer = peers[static_cast<std::size_t>(r)];
    peer.data = dial(comm, id, r, 0);
    peer.control = dial(comm, id, r, 1);
    ok = peer.data >= 0 && peer.control >= 0;
  }
  for (int left = 2 * (comm.size - 1 - comm.rank); ok && left > 0;) {
    const int s = accept(listener, nullptr, nullptr);
    if (s < 0) {
      ok = !comm.stop;
      nap();
      continue;
    }
    int introduction[2] = {-1, -1};
    ok = read(s, introduction, sizeof(introduction)) == sizeof(introduction) && introduction[0] > comm.rank &&
         introduction[0] < comm.size;
    if (!ok) break;
    Peer& peer = peers[static_cast<std::size_t>(introduction[0])];
    (introduction[1] == 0 ? peer.data : peer.control) = s;
    --left;
  }
  close(listener);
  for (const Peer& peer : peers) {
    for (const int s : {peer.data, peer.control}) {
      if (s >= 0) fcntl(s, F_SETFL, fcntl(s, F_GETFL) | O_NONBLOCK);
    }
  }
  return ok;
}

void tell(const ncclComm& comm, int peer, unsigned char what) {
  if (peer != comm.rank)
    static_cast<void>(!send(comm.peers[static_cast<std::size_t>(peer)].control, &what, 1, MSG_NOSIGNAL));
}

void copy_to_self(int rank, std::vector<Transfer>& transfers) {
  const DeviceAccess access;
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

bool is_finished(const Transfer& t) {
  return t.done == t.num_bytes;
}

/// Whether a socket of an unfinished transfer is ready.
bool can_move(const ncclComm& comm, const std::vector<Transfer>& transfers) {
  std::vector<pollfd> sockets;
  for (const Transfer& t : transfers) {
    const int s = comm.peers[static_cast<std::size_t>(t.peer)].data;
    if (!is_finished(t)) sockets.push_back({s, static_cast<short>(t.sends ? POLLOUT : POLLIN), 0});
  }
  return poll(sockets.data(), sockets.size(), 0) > 0;
}

/// Moves what the sockets take; only the first unfinished transfer of each direction and peer may move.
/// Returns how many bytes moved; -1 when a peer is gone.
ssize_t move_bytes(const ncclComm& comm, std::vector<Transfer>& transfers) {
  // The kernel cannot touch protected pages either, so device memory is open while bytes move.
  const DeviceAccess access;
  std::set<std::pair<bool, int>> busy;
  ssize_t total = 0;
  for (Transfer& t : transfers) {
    if (is_finished(t) || !busy.insert({t.sends, t.peer}).second) continue;
    const int s = comm.peers[static_cast<std::size_t>(t.peer)].data;
    const ssize_t moved = t.sends ? send(s, t.data + t.done, t.num_bytes - t.done, MSG_NOSIGNAL)
                                  : recv(s, t.data + t.done, t.num_bytes - t.done, 0);
    if (moved == 0 || (moved < 0 && errno != EAGAIN && errno != EWOULDBLOCK)) return -1;
    if (moved > 0) t.done += static_cast<std::size_t>(moved);
    total += std::max<ssize_t>(moved, 0);
  }
  return total;
}

/// The operation of a stream: true when it has finished or the communicator was given up, false while it
/// waits.
bool run(ncclComm& comm, Job& job) {
  if (comm.stop) return true;
  if (comm.state == ncclRemoteError) return false;  // hangs until it is aborted
  if (!job.has_begun) {
    job.has_begun = true;
    copy_to_self(comm.rank, job.transfers);
    for (const int peer : job.peers) tell(comm, peer, knock);
  }
  while (!std::all_of(job.transfers.begin(), job.transfers.end(), is_finished)) {
    const ssize_t moved = can_move(comm, job.transfers) ? move_bytes(comm, job.transfers) : 0;
    if (moved < 0) comm.state = ncclRemoteError;
    if (moved <= 0) return false;
  }
  const DeviceAccess access;
  for (const auto& step : job.afterwards) step();
  for (const int peer : job.peers) ++comm.peers[static_cast<std::size_t>(peer)].finished;
  std::erase_if(comm.queued, [&](const ncclComm::Queued& q) { return q.job.get() == &job; });
  return true;
}

/// The end of the first operation that a peer, or finalizing, waits for; null if none is.
std::shared_ptr<Point> wanted_point(const ncclComm& comm) {
  if (comm.is_finalizing && !comm.queued.empty()) return comm.queued.back().end;
  std::map<int, std::int64_t> before;
  for (const ncclComm::Queued& q : comm.queued) {
    for (const int r : q.job->peers) {
      const Peer& peer = comm.peers[static_cast<std::size_t>(r)];
      if (peer.knocks > peer.finished + before[r]++) return q.end;
    }
  }
  return nullptr;
}

void listen_to_peers(ncclComm& comm) {
  for (Peer& peer : comm.peers) {
    unsigned char heard[64];
    ssize_t count = 0;
    while (peer.control >= 0 && (count = recv(peer.control, heard, sizeof(heard), 0)) > 0) {
      peer.has_greeted |= std::count(heard, heard + count, hello) > 0;
      peer.knocks += std::count(heard, heard + count, knock);
    }
    if (count != 0 || peer.control < 0) continue;
    close(std::exchange(peer.control, -1));  // it has left
  }
}

}  // namespace

void serve(ncclComm& comm, const std::string& id) {
  {
    std::vector<Peer> peers(static_cast<std::size_t>(comm.size));
    const bool ok = meet(comm, id, peers);
    const auto held = lock();
    comm.peers = std::move(peers);
    if (comm.state == ncclInProgress) comm.state = ok ? ncclSuccess : ncclRemoteError;
  }
  while (!comm.stop) {
    std::vector<pollfd> sockets = {{comm.wake, POLLIN, 0}};
    std::shared_ptr<Point> wanted;
    {
      const auto held = lock();
      listen_to_peers(comm);
      wanted = wanted_point(comm);
      for (const Peer& peer : comm.peers) {
        if (peer.control >= 0) sockets.push_back({peer.control, POLLIN, 0});
      }
    }
    if (wanted != nullptr) {
      if (!lead_to(*wanted)) nap();
      continue;
    }
    poll(sockets.data(), sockets.size(), -1);
    std::uint64_t count = 0;
    static_cast<void>(!read(comm.wake, &count, sizeof(count)));
  }
}

void queue_closed(const std::shared_ptr<ncclComm>& comm) {
  for (const int r : comm->closed->peers) {
    Peer& peer = comm->peers[static_cast<std::size_t>(r)];
    if (!std::exchange(peer.is_greeted, true)) tell(*comm, r, hello);
  }
  for (const int r : comm->closed->peers) {
    if (!comm->peers[static_cast<std::size_t>(r)].has_greeted) return;
  }
  if (comm->patience-- > 0) return;
  const std::shared_ptr<Job> job = std::exchange(comm->closed, nullptr);
  Operation operation;
  operation.run = [comm, job] { return run(*comm, *job); };
  operation.opens_memory = false;
  operation.reaches = std::make_shared<Point>();
  const auto end = operation.reaches;
  queue(job->stream, std::move(operation));
  if (!end->reached) comm->queued.push_back({job, end});
  comm->signal();
}

}  // namespace nmoe::emulation
