// Communicator over MPI: checks arguments on the caller's thread, queues the call, hands back a Work.
#include "neuronmoe/comm/mpi_communicator.hpp"

#include <mpi.h>

#include "../arguments.hpp"
#include "group.hpp"
#include "mpi_check.hpp"

namespace nmoe::comm {

namespace {

using detail::Call;
using detail::Group;
using detail::Piece;
using detail::Queue;

using Counts = std::vector<std::int64_t>;

Counts copy_of(std::span<const std::int64_t> counts) {
  return {counts.begin(), counts.end()};
}

detail::GatherBytes gather_over(Group& group) {
  return
      [&group](const void* mine, void* all, std::int64_t num_bytes) { group.gather(mine, all, num_bytes); };
}

/// One piece per rank: `counts[r]` rows of `row` bytes, one after the other.
std::vector<Piece> pieces_of(std::byte* data, const Counts& counts, std::int64_t row) {
  std::vector<Piece> pieces;
  for (std::size_t r = 0; r < counts.size(); ++r) {
    pieces.push_back({static_cast<int>(r), data, counts[r] * row});
    data += counts[r] * row;
  }
  return pieces;
}

/// MPI's pieces are mutable because they serve both directions; sends are only read.
std::byte* bytes_of(ConstTensorView view) {
  return static_cast<std::byte*>(
      const_cast<void*>(view.raw()));  // NOLINT(cppcoreguidelines-pro-type-const-cast)
}

class MpiCommunicator final : public Communicator {
 public:
  explicit MpiCommunicator(std::shared_ptr<Group> group) : group_(std::move(group)) {}
  ~MpiCommunicator() override = default;  // leaks the MPI_Comm unless close() was called: freeing may block

  int rank() const override { return group_->rank; }
  int size() const override { return group_->size; }
  Work all_reduce(TensorView inout, ReduceOp op, Stream& stream) override;
  Work all_gather_v(TensorView recv, std::span<const std::int64_t> counts, ConstTensorView send,
                    Stream& stream) override;
  Work all_to_all_v(TensorView recv, std::span<const std::int64_t> recv_counts, ConstTensorView send,
                    std::span<const std::int64_t> send_counts, Stream& stream) override;
  InPlaceExchange all_to_all_in_place(TensorView recv, std::span<const std::int64_t> recv_counts,
                                      ConstTensorView send, std::span<const std::int64_t> send_counts,
                                      Stream& stream) override;
  std::shared_ptr<std::byte> allocate_send(std::int64_t num_bytes) override;
  Work broadcast(TensorView buffer, int root, Stream& stream) override;
  void barrier() override;
  std::unique_ptr<Communicator> split(int color, int key) override;
  void drain() override { group_->queue->drain(); }
  void* native() const override { return &group_->comm; }
  void close() override;
  std::string last_operation() const override { return group_->queue->last_operation(); }

 private:
  /// Queues `body(group)` behind the debug check. `bytes_sent` goes to the counters, `bytes_moved` decides
  /// whether the communication thread is woken.
  template <typename Body>
  Work start(Call call, const std::string& invalid, std::int64_t bytes_sent, std::int64_t bytes_moved,
             Body body);
  template <typename Exchange>
  Work start_all_to_all(TensorView recv, std::span<const std::int64_t> recv_counts, ConstTensorView send,
                        std::span<const std::int64_t> send_counts, Exchange exchange);

  std::shared_ptr<Group> group_;
  std::uint64_t sequence_ = 0;
};

template <typename Body>
Work MpiCommunicator::start(Call call, const std::string& invalid, std::int64_t bytes_sent,
                            std::int64_t bytes_moved, Body body) {
  NMOE_CHECK(group_->comm != MPI_COMM_NULL, internal, "{} on a closed communicator", name_of(call.operation));
  // With debug checks on, the other ranks must hear of it before anybody throws.
  NMOE_CHECK(invalid.empty() || group_->options.debug_checks, internal, "{}: {}", name_of(call.operation),
             invalid);
  call.sequence = ++sequence_;
  call.group_size = group_->size;
  counters_[call.operation].calls += 1;
  counters_[call.operation].bytes_sent += bytes_sent;
  auto task = std::make_shared<Queue::Task>();
  task->call = call;
  task->run = [group = group_, call, invalid, body = std::move(body)] {
    if (group->options.debug_checks) detail::compare_calls(call, invalid, gather_over(*group));
    body(*group);
  };
  const std::shared_ptr<Queue> queue = group_->queue;
  queue->submit(task, group_->size > 1 && bytes_moved >= group_->options.wake_bytes);
  return Work([queue, task] { queue->wait(*task); });
}

Work MpiCommunicator::all_reduce(TensorView inout, ReduceOp op, Stream&) {
  Call call{.operation = Operation::all_reduce, .reduce_op = op, .dtype = inout.dtype()};
  call.count = inout.num_elements();
  const std::int64_t bytes = inout.num_bytes();
  const std::int64_t sent = all_reduce_bytes_sent(inout.dtype(), inout.num_elements(), rank(), size(),
                                                  group_->options.small_reduce_bytes);
  return start(call, detail::check_buffer(inout), sent, bytes,
               [inout, op](Group& group) { group.all_reduce(inout, op); });
}

Work MpiCommunicator::all_gather_v(TensorView recv, std::span<const std::int64_t> counts,
                                   ConstTensorView send, Stream&) {
  Call call{.operation = Operation::all_gather_v, .dtype = recv.dtype()};
  call.count = detail::row_bytes(recv);
  call.hash = detail::hash_of(counts);
  const std::string invalid = detail::check_all_gather_v(rank(), size(), recv, counts, send);
  const std::int64_t row = call.count;
  return start(call, invalid, send.num_bytes() * (size() - 1), recv.num_bytes(),
               [recv, send, row, rows = copy_of(counts)](Group& group) {
                 const std::vector<Piece> recvs = pieces_of(bytes_of(recv), rows, row);
                 std::vector<Piece> sends;
                 for (int r = 0; r < group.size; ++r) sends.push_back({r, bytes_of(send), send.num_bytes()});
                 group.exchange(recvs, sends);
               });
}

template <typename Exchange>
Work MpiCommunicator::start_all_to_all(TensorView recv, std::span<const std::int64_t> recv_counts,
                                       ConstTensorView send, std::span<const std::int64_t> send_counts,
                                       Exchange exchange) {
  Call call{.operation = Operation::all_to_all_v, .dtype = recv.dtype()};
  call.count = detail::row_bytes(recv);
  const std::string invalid = detail::check_all_to_all_v(size(), recv, recv_counts, send, send_counts);
  const std::int64_t row = call.count;
  const std::int64_t kept = invalid.empty() ? send_counts[static_cast<std::size_t>(rank())] * row : 0;
  return start(
      call, invalid, send.num_bytes() - kept, send.num_bytes() + recv.num_bytes(),
      [recv, send, row, exchange, to = copy_of(send_counts), from = copy_of(recv_counts)](Group& group) {
        if (group.options.debug_checks) detail::compare_row_counts(to, from, gather_over(group));
        exchange(group, pieces_of(bytes_of(recv), from, row), pieces_of(bytes_of(send), to, row));
      });
}

Work MpiCommunicator::all_to_all_v(TensorView recv, std::span<const std::int64_t> recv_counts,
                                   ConstTensorView send, std::span<const std::int64_t> send_counts, Stream&) {
  return start_all_to_all(
      recv, recv_counts, send, send_counts,
      [](Group& group, const auto& recvs, const auto& sends) { group.exchange(recvs, sends); });
}

InPlaceExchange MpiCommunicator::all_to_all_in_place(TensorView recv,
                                                     std::span<const std::int64_t> recv_counts,
                                                     ConstTensorView send,
                                                     std::span<const std::int64_t> send_counts,
                                                     Stream& stream) {
  if (!group_->window) return Communicator::all_to_all_in_place(recv, recv_counts, send, send_counts, stream);
  auto state = std::make_shared<InPlaceExchange::State>();
  auto held = std::make_shared<detail::HeldPieces>();
  state->release = [held] { Group::release(*held); };
  state->reclaim = [group = group_, held] {
    if (Group::is_reclaimed(*held)) return;
    auto task = std::make_shared<Queue::Task>();  // only a task may keep MPI going while it waits
    task->call = {.operation = Operation::all_to_all_v, .group_size = group->size};
    task->run = [group, held] { group->reclaim(*held); };
    group->queue->submit(task, false);
    group->queue->wait(*task);
  };
  Work work = start_all_to_all(recv, recv_counts, send, send_counts,
                               [state, held](Group& group, const auto& recvs, const auto& sends) {
                                 state->rows = group.exchange_in_place(recvs, sends, *held);
                               });
  return {std::move(work), std::move(state)};
}

std::shared_ptr<std::byte> MpiCommunicator::allocate_send(std::int64_t num_bytes) {
  if (group_->window) {
    if (auto memory = group_->window->allocate(num_bytes)) return memory;
  }
  return Communicator::allocate_send(num_bytes);
}

Work MpiCommunicator::broadcast(TensorView buffer, int root, Stream&) {
  Call call{.operation = Operation::broadcast, .dtype = buffer.dtype(), .root = root};
  call.count = buffer.num_elements();
  std::string invalid = detail::check_buffer(buffer);
  if (invalid.empty()) invalid = detail::check_root(root, size());
  return start(call, invalid, rank() == root ? buffer.num_bytes() * (size() - 1) : 0, buffer.num_bytes(),
               [buffer, root](Group& group) { group.broadcast(buffer, root); });
}

void MpiCommunicator::barrier() {
  start({.operation = Operation::barrier}, "", 0, 0, [](Group& group) {
    NMOE_MPI(MPI_Barrier(group.comm));
  }).wait();
}

std::unique_ptr<Communicator> MpiCommunicator::split(int color, int key) {
  MPI_Comm part = MPI_COMM_NULL;
  const std::string invalid = color >= 0 ? "" : fmt::format("negative color {}", color);
  start({.operation = Operation::split}, invalid, 0, 0, [&part, color, key](Group& group) {
    NMOE_MPI(MPI_Comm_split(group.comm, color, key, &part));
  }).wait();
  auto group = std::make_shared<Group>(part, group_->options, group_->queue);
  group->share_window_of(*group_, color);
  return std::make_unique<MpiCommunicator>(std::move(group));
}

void MpiCommunicator::close() {
  if (group_->comm == MPI_COMM_NULL) return;
  start({.operation = Operation::close}, "", 0, 0, [](Group& group) {
    NMOE_MPI(MPI_Comm_free(&group.comm));
    group.window.reset();
  }).wait();
}

}  // namespace

std::unique_ptr<Communicator> make_mpi_communicator(void* mpi_comm, const MpiOptions& options) {
  int provided = MPI_THREAD_SINGLE;
  NMOE_MPI(MPI_Query_thread(&provided));
  NMOE_CHECK(
      provided >= MPI_THREAD_SERIALIZED, config,
      "MPI gives thread level {}, at least {} (MPI_THREAD_SERIALIZED) is needed; use another MPI build",
      provided, MPI_THREAD_SERIALIZED);
  NMOE_CHECK(options.max_message_bytes >= 1 && options.max_message_bytes <= (std::int64_t{1} << 30), config,
             "max_message_bytes {} is not in [1, 2^30]", options.max_message_bytes);
  NMOE_CHECK(options.small_reduce_bytes >= 0 && options.small_reduce_bytes <= (std::int64_t{1} << 30), config,
             "small_reduce_bytes {} is not in [0, 2^30]", options.small_reduce_bytes);
  NMOE_CHECK(options.window_bytes >= 0, config, "window_bytes {} is negative", options.window_bytes);
  MPI_Comm copy = MPI_COMM_NULL;
  NMOE_MPI(MPI_Comm_dup(*static_cast<MPI_Comm*>(mpi_comm), &copy));
  auto group = std::make_shared<Group>(copy, options, std::make_shared<Queue>(options.on_finished));
  auto communicator = std::make_unique<MpiCommunicator>(group);
  if (options.on_node == OnNode::mpi) return communicator;
  try {
    group->window = detail::NodeWindow::make(*communicator, copy, options.window_bytes);
  } catch (const Error&) {  // the same on every rank
    communicator->close();
    throw;
  }
  if (group->window) group->node_ranks = group->window->node_ranks();
  return communicator;
}

OnNodeChoice choose_on_node(Communicator& world, std::optional<OnNode> wanted, const MpiOptions& options) {
  if (wanted) return {*wanted, fmt::format("comm.on_node = {}", name_of(*wanted))};
  if (world.size() == 1) return {OnNode::mpi, "one rank"};
  world.drain();
  try {
    const auto window =
        detail::NodeWindow::make(world, *static_cast<MPI_Comm*>(world.native()), options.window_bytes);
    const std::int64_t neighbours = all_reduce_max(world, std::int64_t{window != nullptr});
    return neighbours > 0 ? OnNodeChoice{OnNode::shared, "ranks of a node share memory"}
                          : OnNodeChoice{OnNode::mpi, "every rank has a node of its own"};
  } catch (const Error& error) {
    if (error.code() != ErrorCode::config) throw;
    return {OnNode::mpi, fmt::format("not shared memory, because {}", error.what())};
  }
}

}  // namespace nmoe::comm
