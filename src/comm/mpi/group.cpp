// Message patterns of one MPI group: exchanges, reductions, broadcasts.
#include "group.hpp"

#include <algorithm>

#include "../large_copy.hpp"
#include "../rank_order.hpp"
#include "mpi_check.hpp"
#include "neuronmoe/comm/layout.hpp"

namespace nmoe::comm::detail {

namespace {

constexpr int tag = 0;                  // tasks run one at a time and MPI keeps the order between two ranks
constexpr int looks_per_progress = 64;  // at a window where nothing moves

MPI_Datatype mpi_type(DType dtype) {
  switch (dtype) {
    case DType::int32:
      return MPI_INT32_T;
    case DType::int64:
      return MPI_INT64_T;
    case DType::uint8:
      return MPI_UINT8_T;
    default:
      return MPI_DATATYPE_NULL;
  }
}

MPI_Op mpi_op(ReduceOp op) {
  if (op == ReduceOp::sum) return MPI_SUM;
  return op == ReduceOp::min ? MPI_MIN : MPI_MAX;
}

}  // namespace

Group::Group(MPI_Comm handle, MpiOptions the_options, std::shared_ptr<Queue> the_queue)
    : comm(handle), options(the_options), queue(std::move(the_queue)) {
  NMOE_MPI(MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN));
  NMOE_MPI(MPI_Comm_rank(comm, &rank));
  NMOE_MPI(MPI_Comm_size(comm, &size));
}

void Group::share_window_of(Group& parent, int color) {
  if (!parent.window) return;
  id = parent.id;
  for (const std::uint64_t part : {++parent.num_splits, static_cast<std::uint64_t>(color)})
    id = (id ^ part) * 0x100000001B3U;
  MPI_Group mine = MPI_GROUP_NULL, all = MPI_GROUP_NULL;
  NMOE_MPI(MPI_Comm_group(comm, &mine));
  NMOE_MPI(MPI_Comm_group(parent.comm, &all));
  std::vector<int> ranks, of_parent(static_cast<std::size_t>(size));
  for (int r = 0; r < size; ++r) ranks.push_back(r);
  NMOE_MPI(MPI_Group_translate_ranks(mine, size, ranks.data(), all, of_parent.data()));
  NMOE_MPI(MPI_Group_free(&mine));
  NMOE_MPI(MPI_Group_free(&all));
  window = parent.window;
  for (const int r : of_parent) node_ranks.push_back(parent.node_ranks[static_cast<std::size_t>(r)]);
}

void Group::receive_message(const Piece& piece) {
  for (std::int64_t done = 0; done < piece.num_bytes; done += options.max_message_bytes) {
    const auto count = static_cast<int>(std::min(options.max_message_bytes, piece.num_bytes - done));
    NMOE_MPI(MPI_Irecv(piece.data + done, count, MPI_BYTE, piece.peer, tag, comm,
                       &requests.emplace_back(MPI_REQUEST_NULL)));
  }
}

void Group::send_message(const Piece& piece) {
  for (std::int64_t done = 0; done < piece.num_bytes; done += options.max_message_bytes) {
    const auto count = static_cast<int>(std::min(options.max_message_bytes, piece.num_bytes - done));
    NMOE_MPI(MPI_Isend(piece.data + done, count, MPI_BYTE, piece.peer, tag, comm,
                       &requests.emplace_back(MPI_REQUEST_NULL)));
  }
}

void Group::exchange(std::span<const Piece> recvs, std::span<const Piece> sends) {
  const Piece &to_me = recvs[static_cast<std::size_t>(rank)],
              &from_me = sends[static_cast<std::size_t>(rank)];
  const auto copy = [](const Piece& piece, const void* from) {
    copy_bytes(piece.data, from, static_cast<std::size_t>(piece.num_bytes));
    return true;
  };
  HeldPieces held;
  start_messages(recvs, sends);
  if (window) exchange_notes(recvs, sends, held, copy);
  copy(to_me, from_me.data);
  reclaim(held);
  finish();
}

std::vector<const void*> Group::exchange_in_place(std::span<const Piece> recvs, std::span<const Piece> sends,
                                                  HeldPieces& held) {
  std::vector<const void*> rows;
  for (const Piece& piece : recvs) rows.push_back(piece.data);
  rows[static_cast<std::size_t>(rank)] = sends[static_cast<std::size_t>(rank)].data;
  start_messages(recvs, sends);
  exchange_notes(recvs, sends, held, [&](const Piece& piece, const void* where) {
    rows[static_cast<std::size_t>(piece.peer)] = where;
    return false;
  });
  finish();
  return rows;
}

void Group::start_messages(std::span<const Piece> recvs, std::span<const Piece> sends) {
  requests.clear();
  ++num_exchanges;
  // Receives first, so that no message arrives unexpected; both start at the next rank to spread the load.
  for (int step = 1; step < size; ++step) {
    const Piece& piece = recvs[static_cast<std::size_t>((rank + size - step) % size)];
    if (!on_node(piece.peer)) receive_message(piece);
  }
  for (int step = 1; step < size; ++step) {
    const Piece& piece = sends[static_cast<std::size_t>((rank + step) % size)];
    if (!on_node(piece.peer)) send_message(piece);
  }
}

template <typename Use>
void Group::exchange_notes(std::span<const Piece> recvs, std::span<const Piece> sends, HeldPieces& held,
                           Use use) {
  std::vector<Piece> to_post, to_take;
  const std::uint64_t exchange = id * 0x9E3779B97F4A7C15U + num_exchanges;
  for (int step = 1; step < size; ++step) {
    const Piece &out = sends[static_cast<std::size_t>((rank + step) % size)],
                &in = recvs[static_cast<std::size_t>((rank + size - step) % size)];
    if (on_node(out.peer) && out.num_bytes > 0) to_post.push_back(out);
    if (on_node(in.peer) && in.num_bytes > 0) to_take.push_back(in);
  }
  const auto post = [&](const Piece& piece) {
    const int to = node_ranks[static_cast<std::size_t>(piece.peer)];
    const NodeWindow::Posted posted =
        window->post(to, exchange, piece.data, piece.num_bytes, options.in_place_bytes);
    if (!posted.room) return false;
    if (posted.readers != nullptr)
      held.mine.push_back(posted.readers);
    else
      send_message(piece);
    return true;
  };
  const auto take = [&](const Piece& piece) {
    const int from = node_ranks[static_cast<std::size_t>(piece.peer)];
    NodeWindow::Note note{};
    if (!window->take(from, exchange, piece.num_bytes, note)) return false;
    if (note.data == nullptr)
      receive_message(piece);
    else if (use(piece, note.data))
      NodeWindow::release(*note.readers);
    else
      held.theirs.push_back(note.readers);
    return true;
  };
  for (int looks = 0; !to_post.empty() || !to_take.empty();) {
    const std::size_t moved = std::erase_if(to_post, post) + std::erase_if(to_take, take);
    if (moved == 0) idle(looks);
  }
}

void Group::idle(int& looks) {
  // A peer may wait for a message that MPI took from us but has not delivered: MPI only works when called.
  if (++looks % looks_per_progress == 0) {
    int found = 0;
    NMOE_MPI(MPI_Iprobe(MPI_ANY_SOURCE, tag, comm, &found, MPI_STATUS_IGNORE));
  }
  std::this_thread::yield();
}

void Group::release(HeldPieces& held) {
  for (NodeWindow::Readers* readers : held.theirs) NodeWindow::release(*readers);
}

bool Group::is_reclaimed(const HeldPieces& held) {
  return std::all_of(held.mine.begin(), held.mine.end(),
                     [](const NodeWindow::Readers* readers) { return NodeWindow::is_released(*readers); });
}

void Group::reclaim(const HeldPieces& held) {
  for (int looks = 0; !is_reclaimed(held);) idle(looks);
}

void Group::finish() {
  const auto count = static_cast<int>(requests.size());
  if (!Queue::is_communication_thread()) {
    NMOE_MPI(MPI_Waitall(count, requests.data(), MPI_STATUSES_IGNORE));
    return;
  }
  int done = 0;
  while (true) {
    NMOE_MPI(MPI_Testall(count, requests.data(), &done, MPI_STATUSES_IGNORE));
    if (done != 0) return;
    std::this_thread::yield();
  }
}

void Group::all_reduce(TensorView inout, ReduceOp op) {
  if (size == 1 || inout.num_elements() == 0) return;
  switch (reduce_path(inout.dtype(), inout.num_elements(), options.small_reduce_bytes)) {
    case ReducePath::library:
      return all_reduce_library(inout, op);
    case ReducePath::gathered:
      return all_reduce_small(inout, op);
    case ReducePath::sliced:
      return all_reduce_sliced(inout, op);
  }
}

void Group::all_reduce_library(TensorView inout, ReduceOp op) {
  const std::int64_t width = size_of(inout.dtype());
  const std::int64_t step = std::max<std::int64_t>(1, options.max_message_bytes / width);
  auto* data = static_cast<std::byte*>(inout.raw());
  for (std::int64_t first = 0; first < inout.num_elements(); first += step) {
    const auto count = static_cast<int>(std::min(step, inout.num_elements() - first));
    std::byte* piece = data + first * width;
    if (is_big(inout.num_bytes())) {
      requests.assign(1, MPI_REQUEST_NULL);
      NMOE_MPI(MPI_Iallreduce(MPI_IN_PLACE, piece, count, mpi_type(inout.dtype()), mpi_op(op), comm,
                              requests.data()));
      finish();
    } else {
      NMOE_MPI(MPI_Allreduce(MPI_IN_PLACE, piece, count, mpi_type(inout.dtype()), mpi_op(op), comm));
    }
  }
}

/// Everybody gathers everything and sums it: one round of messages.
void Group::all_reduce_small(TensorView inout, ReduceOp op) {
  const auto bytes = static_cast<std::size_t>(inout.num_bytes());
  std::byte* all = queue->scratch(bytes * static_cast<std::size_t>(size));
  NMOE_MPI(MPI_Allgather(inout.raw(), static_cast<int>(bytes), MPI_BYTE, all, static_cast<int>(bytes),
                         MPI_BYTE, comm));
  std::vector<const void*> sources;
  for (int r = 0; r < size; ++r) sources.push_back(all + bytes * static_cast<std::size_t>(r));
  reduce_in_rank_order(inout.dtype(), op, sources, inout.raw(), inout.num_elements());
}

/// Rank r sums slice r of everybody (all-to-all), then hands it out (all-gather): the bytes of a ring, in a
/// fixed order of sums.
void Group::all_reduce_sliced(TensorView inout, ReduceOp op) {
  const std::int64_t n = inout.num_elements(), width = size_of(inout.dtype());
  auto* data = static_cast<std::byte*>(inout.raw());
  const Slice mine = slice_of(n, rank, size);
  const std::int64_t mine_bytes = mine.count * width;
  std::byte* parts = queue->scratch(static_cast<std::size_t>(mine_bytes * (size - 1)));
  std::vector<Piece> slices, received;
  std::vector<const void*> sources;
  for (int r = 0; r < size; ++r) {
    if (r == rank) {
      slices.push_back({r, nullptr, 0});
      received.push_back({r, nullptr, 0});
      sources.push_back(data + mine.begin * width);
      continue;
    }
    const Slice slice = slice_of(n, r, size);
    slices.push_back({r, data + slice.begin * width, slice.count * width});
    received.push_back({r, parts, mine_bytes});
    sources.push_back(parts);
    parts += mine_bytes;
  }
  exchange(received, slices);
  reduce_in_rank_order(inout.dtype(), op, sources, data + mine.begin * width, mine.count);
  for (Piece& piece : received) {
    if (piece.peer != rank) piece.data = data + mine.begin * width;
  }
  exchange(slices, received);  // now slice r comes from rank r, and mine goes to everybody
}

void Group::broadcast(TensorView buffer, int root) {
  if (size == 1) return;
  auto* data = static_cast<std::byte*>(buffer.raw());
  for (std::int64_t done = 0; done < buffer.num_bytes(); done += options.max_message_bytes) {
    const auto count = static_cast<int>(std::min(options.max_message_bytes, buffer.num_bytes() - done));
    if (is_big(buffer.num_bytes())) {
      requests.assign(1, MPI_REQUEST_NULL);
      NMOE_MPI(MPI_Ibcast(data + done, count, MPI_BYTE, root, comm, requests.data()));
      finish();
    } else {
      NMOE_MPI(MPI_Bcast(data + done, count, MPI_BYTE, root, comm));
    }
  }
}

void Group::gather(const void* mine, void* all, std::int64_t num_bytes) {
  const auto count = static_cast<int>(num_bytes);
  NMOE_MPI(MPI_Allgather(mine, count, MPI_BYTE, all, count, MPI_BYTE, comm));
}

}  // namespace nmoe::comm::detail
