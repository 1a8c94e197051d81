#include "group.hpp"

#include <algorithm>
#include <cstring>

#include "../rank_order.hpp"
#include "mpi_check.hpp"

namespace nmoe::comm::detail {

namespace {

constexpr int tag = 0;  // tasks run one at a time and MPI keeps the order between two ranks

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

/// First element of rank r's slice of n elements.
std::int64_t slice_begin(std::int64_t n, int r, int size) {
  return n / size * r + std::min<std::int64_t>(r, n % size);
}

}  // namespace

bool order_matters(DType dtype) {
  return dtype == DType::float64 || dtype == DType::float32 || dtype == DType::bfloat16;
}

Group::Group(MPI_Comm handle, MpiOptions the_options, std::shared_ptr<Queue> the_queue)
    : comm(handle), options(the_options), queue(std::move(the_queue)) {
  NMOE_MPI(MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN));
  NMOE_MPI(MPI_Comm_rank(comm, &rank));
  NMOE_MPI(MPI_Comm_size(comm, &size));
}

void Group::exchange(std::span<const Piece> recvs, std::span<const Piece> sends) {
  requests.clear();
  const auto post = [&](const Piece& piece, auto start) {
    for (std::int64_t done = 0; done < piece.num_bytes; done += options.max_message_bytes) {
      const auto count = static_cast<int>(std::min(options.max_message_bytes, piece.num_bytes - done));
      MPI_Request request = MPI_REQUEST_NULL;
      NMOE_MPI(start(piece.data + done, count, piece.peer, &request));
      requests.push_back(request);
    }
  };
  // Receives first, so that no message arrives unexpected; both start at the next rank to spread the load.
  for (int step = 1; step < size; ++step) {
    post(recvs[static_cast<std::size_t>((rank + size - step) % size)],
         [&](void* p, int n, int peer, MPI_Request* r) {
           return MPI_Irecv(p, n, MPI_BYTE, peer, tag, comm, r);
         });
  }
  for (int step = 1; step < size; ++step) {
    post(sends[static_cast<std::size_t>((rank + step) % size)],
         [&](const void* p, int n, int peer, MPI_Request* r) {
           return MPI_Isend(p, n, MPI_BYTE, peer, tag, comm, r);
         });
  }
  const Piece &to_me = recvs[static_cast<std::size_t>(rank)],
              &from_me = sends[static_cast<std::size_t>(rank)];
  if (to_me.num_bytes > 0) std::memmove(to_me.data, from_me.data, static_cast<std::size_t>(to_me.num_bytes));
  finish();
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
  if (!order_matters(inout.dtype())) {
    all_reduce_library(inout, op);
  } else if (inout.num_bytes() <= options.small_reduce_bytes) {
    all_reduce_small(inout, op);
  } else {
    all_reduce_sliced(inout, op);
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
  const std::int64_t mine = slice_begin(n, rank, size), mine_count = slice_begin(n, rank + 1, size) - mine;
  std::byte* parts = queue->scratch(static_cast<std::size_t>(mine_count * width * (size - 1)));
  std::vector<Piece> slices, received;
  std::vector<const void*> sources;
  for (int r = 0; r < size; ++r) {
    const std::int64_t begin = slice_begin(n, r, size);
    if (r == rank) {
      slices.push_back({r, nullptr, 0});
      received.push_back({r, nullptr, 0});
      sources.push_back(data + mine * width);
      continue;
    }
    slices.push_back({r, data + begin * width, (slice_begin(n, r + 1, size) - begin) * width});
    received.push_back({r, parts, mine_count * width});
    sources.push_back(parts);
    parts += mine_count * width;
  }
  exchange(received, slices);
  reduce_in_rank_order(inout.dtype(), op, sources, data + mine * width, mine_count);
  for (Piece& piece : received) {
    if (piece.peer != rank) piece.data = data + mine * width;
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

}  // namespace nmoe::comm::detail
