// Names and the blocking conveniences on top of the interface.
#include "neuronmoe/comm/communicator.hpp"

#include <algorithm>
#include <cstdlib>
#include <numeric>

#include "rank_order.hpp"

namespace nmoe::comm {

std::int64_t all_reduce_bytes_sent(DType dtype, std::int64_t count, int rank, int size,
                                   std::int64_t small_reduce_bytes) {
  const std::int64_t peers = size - 1;
  // Small, or in the library's hands: everything to everybody. Otherwise the slices of others once, and the
  // own slice to everybody.
  if (detail::reduce_path(dtype, count, small_reduce_bytes) != detail::ReducePath::sliced)
    return count * size_of(dtype) * peers;
  const std::int64_t mine = detail::slice_of(count, rank, size).count;
  return (count - mine + mine * peers) * size_of(dtype);
}

InPlaceExchange Communicator::all_to_all_in_place(TensorView recv, std::span<const std::int64_t> recv_counts,
                                                  ConstTensorView send,
                                                  std::span<const std::int64_t> send_counts, Stream& stream) {
  auto state = std::make_shared<InPlaceExchange::State>();
  Work work = all_to_all_v(recv, recv_counts, send, send_counts, stream);
  const std::int64_t row = recv.num_elements() > 0 ? recv.num_bytes() / recv.dim(0) : 0;
  const auto* at = static_cast<const std::byte*>(recv.raw());
  for (const std::int64_t count : recv_counts) {
    state->rows.push_back(at);
    at += count * row;
  }
  return {std::move(work), std::move(state)};
}

std::shared_ptr<std::byte> Communicator::allocate_send(std::int64_t num_bytes) {
  const std::size_t size = static_cast<std::size_t>(std::max<std::int64_t>(1, num_bytes) + 63) / 64 * 64;
  auto* memory = static_cast<std::byte*>(std::aligned_alloc(64, size));
  NMOE_CHECK(memory != nullptr, internal, "out of memory: {} bytes for a send buffer", size);
  return {memory, [](std::byte* p) { std::free(p); }};
}

namespace {

template <typename T>
T all_reduce_value(Communicator& comm, T value, ReduceOp op) {
  Stream stream;
  comm.all_reduce(TensorView(&value, dtype_of<T>::value, {1}), op, stream).wait();
  return value;
}

}  // namespace

double all_reduce_sum(Communicator& comm, double value) {
  return all_reduce_value(comm, value, ReduceOp::sum);
}
double all_reduce_max(Communicator& comm, double value) {
  return all_reduce_value(comm, value, ReduceOp::max);
}
std::int64_t all_reduce_sum(Communicator& comm, std::int64_t value) {
  return all_reduce_value(comm, value, ReduceOp::sum);
}
std::int64_t all_reduce_max(Communicator& comm, std::int64_t value) {
  return all_reduce_value(comm, value, ReduceOp::max);
}

std::vector<std::string> all_gather_strings(Communicator& comm, std::string_view text) {
  Stream stream;
  const auto num_ranks = static_cast<std::size_t>(comm.size());
  std::vector<std::int64_t> lengths(num_ranks);
  const auto length = static_cast<std::int64_t>(text.size());
  const std::vector<std::int64_t> one_each(num_ranks, 1);
  comm.all_gather_v(TensorView(lengths.data(), DType::int64, {comm.size()}), one_each,
                    ConstTensorView(&length, DType::int64, {1}), stream)
      .wait();
  const std::int64_t total = std::accumulate(lengths.begin(), lengths.end(), std::int64_t{0});
  std::string all(static_cast<std::size_t>(total), '\0');
  comm.all_gather_v(TensorView(all.data(), DType::uint8, {total}), lengths,
                    ConstTensorView(text.data(), DType::uint8, {length}), stream)
      .wait();
  std::vector<std::string> result;
  std::size_t offset = 0;
  for (const std::int64_t n : lengths) {
    result.push_back(all.substr(offset, static_cast<std::size_t>(n)));
    offset += static_cast<std::size_t>(n);
  }
  return result;
}

std::string broadcast_string(Communicator& comm, std::string_view text, int root) {
  Stream stream;
  auto length = static_cast<std::int64_t>(text.size());
  comm.broadcast(TensorView(&length, DType::int64, {1}), root, stream).wait();
  std::string result(static_cast<std::size_t>(length), '\0');
  if (comm.rank() == root) result = text;
  comm.broadcast(TensorView(result.data(), DType::uint8, {length}), root, stream).wait();
  return result;
}

}  // namespace nmoe::comm
