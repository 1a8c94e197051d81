// Communicator over NCCL for device tensors, beside one for host tensors that it was started from.
#include <fmt/format.h>

#include <cstring>

#include "../arguments.hpp"
#include "../rank_order.hpp"
#include "nccl_check.hpp"
#include "nccl_engine.hpp"
#include "nccl_reduce.hpp"
#include "neuronmoe/comm/agree.hpp"
#include "neuronmoe/comm/layout.hpp"

namespace nmoe::comm {

namespace {

using detail::Call;
using detail::NcclEngine;
using detail::NcclHandle;
using detail::ReducePath;
using detail::Slice;

using Counts = std::span<const std::int64_t>;

CollectiveCounters sum_of(CollectiveCounters a, const CollectiveCounters& b, std::int64_t sign) {
  for (std::size_t i = 0; i < num_operations; ++i) {
    a.entries[i].calls += static_cast<std::uint64_t>(sign) * b.entries[i].calls;
    a.entries[i].bytes_sent += sign * b.entries[i].bytes_sent;
  }
  return a;
}

/// Elements of one row of the leading axis.
std::int64_t row_elements(ConstTensorView view) {
  return detail::row_bytes(view) / size_of(view.dtype());
}

bool all_equal(Counts counts) {
  for (const std::int64_t count : counts) {
    if (count != counts.front()) return false;
  }
  return true;
}

std::size_t unsigned_of(std::int64_t count) {
  return static_cast<std::size_t>(count);
}

/// The library that was found: "NCCL 2.28.9".
std::string nccl_version_text() {
  int version = 0;
  NMOE_NCCL(detail::nccl().get_version(&version));
  return fmt::format("NCCL {}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(std::unique_ptr<Communicator> host, std::shared_ptr<NcclEngine> engine,
                   const CollectiveCounters& own_traffic = {})
      : host_(std::move(host)), engine_(std::move(engine)), own_traffic_(own_traffic) {}
  ~NcclCommunicator() override {
    if (handle_ != nullptr) engine_->give_up(*handle_);
  }

  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }
  Work all_reduce(TensorView inout, ReduceOp op, Stream& stream) override;
  Work all_gather_v(TensorView recv, Counts counts, ConstTensorView send, Stream& stream) override;
  Work all_to_all_v(TensorView recv, Counts recv_counts, ConstTensorView send, Counts send_counts,
                    Stream& stream) override;
  Work broadcast(TensorView buffer, int root, Stream& stream) override;
  void barrier() override { host().barrier(); }
  std::unique_ptr<Communicator> split(int color, int key) override {
    return std::make_unique<NcclCommunicator>(host().split(color, key), engine_);
  }
  void drain() override {
    host().drain();
    engine_->drain();
  }
  void* native() const override { return host_->native(); }
  void close() override;
  std::string last_operation() const override {
    const std::string running = engine_->running();
    return running.empty() ? host_->last_operation() : running;
  }
  std::string gpu_transport() const override { return nccl_version_text(); }
  const CollectiveCounters& counters() const override {
    all_counters_ = sum_of(sum_of(counters_, host_->counters(), 1), own_traffic_, -1);
    return all_counters_;
  }
  /// Makes the NCCL communicator of this group. Collective.
  void connect();

 private:
  using Start = std::function<void(ncclComm_t)>;

  /// For host tensors and control; not after a failure on the device.
  Communicator& host() {
    engine_->throw_if_failed();
    return *host_;
  }
  template <typename Body>
  void on_host_uncounted(Body body);
  void gather(const void* mine, void* all, std::int64_t num_bytes);
  detail::GatherBytes gather_on_host() {
    return [this](const void* mine, void* all, std::int64_t num_bytes) { gather(mine, all, num_bytes); };
  }
  Call begin(Call call, const std::string& invalid, std::int64_t bytes_sent, Stream& stream);
  Work end(const Call& call, const Stream& stream);
  void queue(const Call& call, const Start& start) { engine_->queue(*handle_, call, start); }
  void reduce_by_nccl(const Call& call, TensorView inout);
  void reduce_small(const Call& call, TensorView inout);
  void reduce_sliced(const Call& call, TensorView inout);
  void send_and_receive(const Call& call, TensorView recv, Counts recv_counts, ConstTensorView send,
                        Counts send_counts);

  std::unique_ptr<Communicator> host_;
  std::shared_ptr<NcclEngine> engine_;
  std::shared_ptr<NcclHandle> handle_;
  std::uint64_t sequence_ = 0;
  bool closed_ = false;
  CollectiveCounters own_traffic_;  ///< what bootstrapping and checks sent over the host communicator
  mutable CollectiveCounters all_counters_;
};

template <typename Body>
void NcclCommunicator::on_host_uncounted(Body body) {
  const CollectiveCounters before = host_->counters();
  body(host());
  own_traffic_ = sum_of(own_traffic_, sum_of(host_->counters(), before, -1), 1);
}

void NcclCommunicator::connect() {
  on_host_uncounted([&](Communicator& host) {
    ncclUniqueId id{};
    agree(host, [&] {
      if (rank() == 0) NMOE_NCCL(detail::nccl().get_unique_id(&id));
    });
    const std::string bytes = broadcast_string(host, std::string_view(id.internal, sizeof(id.internal)));
    std::memcpy(id.internal, bytes.data(), sizeof(id.internal));
    host.barrier();  // with some MPIs a broadcast and NCCL's own start can block each other
    agree(host, [&] { handle_ = engine_->connect(id, rank(), size()); });
  });
}

/// For the debug checks: over the host, whose counters leave them out.
void NcclCommunicator::gather(const void* mine, void* all, std::int64_t num_bytes) {
  on_host_uncounted([&](Communicator& host) {
    const std::vector<std::int64_t> one_each(static_cast<std::size_t>(size()), 1);
    Stream cpu;
    host.all_gather_v(TensorView(all, DType::uint8, {size(), num_bytes}), one_each,
                      ConstTensorView(mine, DType::uint8, {1, num_bytes}), cpu)
        .wait();
  });
}

/// Checks and counts a call, and lets the engine's stream wait for the caller's.
Call NcclCommunicator::begin(Call call, const std::string& invalid, std::int64_t bytes_sent, Stream& stream) {
  NMOE_CHECK(!closed_, internal, "{} on a closed communicator", name_of(call.operation));
  engine_->throw_if_failed();
  call.sequence = ++sequence_;
  call.group_size = size();
  if (engine_->options().debug_checks) detail::compare_calls(call, invalid, gather_on_host());
  NMOE_CHECK(invalid.empty(), internal, "{}: {}", name_of(call.operation), invalid);
  if (handle_ == nullptr) connect();
  counters_[call.operation].calls += 1;
  counters_[call.operation].bytes_sent += bytes_sent;
  engine_->follow(stream);
  return call;
}

Work NcclCommunicator::end(const Call& call, const Stream& stream) {
  return Work([engine = engine_, done = engine_->mark_end(call), stream = Stream(stream)]() mutable {
    engine->throw_if_failed();
    done->make_wait(stream);
  });
}

Work NcclCommunicator::all_reduce(TensorView inout, ReduceOp op, Stream& stream) {
  if (inout.device() == Device::cpu) return host().all_reduce(inout, op, stream);
  Call call{.operation = Operation::all_reduce, .reduce_op = op, .dtype = inout.dtype()};
  call.count = inout.num_elements();
  const std::int64_t small = engine_->options().small_reduce_bytes;
  const std::int64_t sent = all_reduce_bytes_sent(inout.dtype(), call.count, rank(), size(), small);
  call = begin(call, detail::check_buffer(inout, Device::cuda), sent, stream);
  if (call.count == 0) return {};
  switch (detail::reduce_path(call.dtype, call.count, small)) {
    case ReducePath::library:
      reduce_by_nccl(call, inout);
      break;
    case ReducePath::gathered:
      reduce_small(call, inout);
      break;
    case ReducePath::sliced:
      reduce_sliced(call, inout);
      break;
  }
  return end(call, stream);
}

void NcclCommunicator::reduce_by_nccl(const Call& call, TensorView inout) {
  queue(call, [&](ncclComm_t comm) {
    NMOE_NCCL(detail::nccl().all_reduce(inout.raw(), inout.raw(), unsigned_of(call.count),
                                        detail::nccl_type(call.dtype), detail::nccl_op(call.reduce_op), comm,
                                        engine_->native_stream()));
  });
}

/// Everybody gathers everything and adds it up.
void NcclCommunicator::reduce_small(const Call& call, TensorView inout) {
  std::byte* all = engine_->scratch(inout.num_bytes() * size());
  queue(call, [&](ncclComm_t comm) {
    NMOE_NCCL(detail::nccl().all_gather(inout.raw(), all, unsigned_of(call.count),
                                        detail::nccl_type(call.dtype), comm, engine_->native_stream()));
  });
  detail::reduce_parts(call.dtype, call.reduce_op, all, size(), inout.raw(), call.count, engine_->stream());
}

/// Rank r adds up slice r of everybody, then hands it out.
void NcclCommunicator::reduce_sliced(const Call& call, TensorView inout) {
  const ncclDataType_t type = detail::nccl_type(call.dtype);
  const std::int64_t width = size_of(call.dtype);
  const Slice mine = detail::slice_of(call.count, rank(), size());
  auto* data = static_cast<std::byte*>(inout.raw());
  std::byte* parts = engine_->scratch(mine.count * width * size());
  const cudaStream_t stream = engine_->native_stream();
  const auto send = [&](ncclComm_t comm, Slice slice, int to) {
    if (slice.count > 0)
      NMOE_NCCL(
          detail::nccl().send(data + slice.begin * width, unsigned_of(slice.count), type, to, comm, stream));
  };
  const auto receive = [&](ncclComm_t comm, std::byte* memory, std::int64_t count, int from) {
    if (count > 0) NMOE_NCCL(detail::nccl().recv(memory, unsigned_of(count), type, from, comm, stream));
  };
  queue(call, [&](ncclComm_t comm) {
    for (int r = 0; r < size(); ++r) {
      send(comm, detail::slice_of(call.count, r, size()), r);
      receive(comm, parts + r * mine.count * width, mine.count, r);
    }
  });
  detail::reduce_parts(call.dtype, call.reduce_op, parts, size(), data + mine.begin * width, mine.count,
                       engine_->stream());
  queue(call, [&](ncclComm_t comm) {
    for (int r = 0; r < size(); ++r) {
      if (r == rank()) continue;
      const Slice theirs = detail::slice_of(call.count, r, size());
      send(comm, mine, r);
      receive(comm, data + theirs.begin * width, theirs.count, r);
    }
  });
}

Work NcclCommunicator::all_gather_v(TensorView recv, Counts counts, ConstTensorView send, Stream& stream) {
  if (recv.device() == Device::cpu && send.device() == Device::cpu)
    return host().all_gather_v(recv, counts, send, stream);
  Call call{.operation = Operation::all_gather_v, .dtype = recv.dtype()};
  call.count = detail::row_bytes(recv);
  call.hash = detail::hash_of(counts);
  call = begin(call, detail::check_all_gather_v(rank(), size(), recv, counts, send, Device::cuda),
               send.num_bytes() * (size() - 1), stream);
  if (recv.num_elements() == 0) return {};
  if (all_equal(counts)) {
    queue(call, [&](ncclComm_t comm) {
      NMOE_NCCL(detail::nccl().all_gather(send.raw(), recv.raw(), unsigned_of(send.num_elements()),
                                          detail::nccl_type(send.dtype()), comm, engine_->native_stream()));
    });
    return end(call, stream);
  }
  const std::int64_t width = row_elements(recv);
  queue(call, [&](ncclComm_t comm) {
    const ncclDataType_t type = detail::nccl_type(recv.dtype());
    auto* to = static_cast<std::byte*>(recv.raw());
    for (int r = 0; r < size(); ++r) {
      const std::int64_t count = counts[static_cast<std::size_t>(r)] * width;
      if (send.num_elements() > 0) {
        NMOE_NCCL(detail::nccl().send(send.raw(), unsigned_of(send.num_elements()), type, r, comm,
                                      engine_->native_stream()));
      }
      if (count > 0)
        NMOE_NCCL(detail::nccl().recv(to, unsigned_of(count), type, r, comm, engine_->native_stream()));
      to += count * size_of(recv.dtype());
    }
  });
  return end(call, stream);
}

Work NcclCommunicator::all_to_all_v(TensorView recv, Counts recv_counts, ConstTensorView send,
                                    Counts send_counts, Stream& stream) {
  if (recv.device() == Device::cpu && send.device() == Device::cpu)
    return host().all_to_all_v(recv, recv_counts, send, send_counts, stream);
  Call call{.operation = Operation::all_to_all_v, .dtype = recv.dtype()};
  call.count = detail::row_bytes(recv);
  const std::string invalid =
      detail::check_all_to_all_v(size(), recv, recv_counts, send, send_counts, Device::cuda);
  const std::int64_t kept = invalid.empty() ? send_counts[static_cast<std::size_t>(rank())] * call.count : 0;
  call = begin(call, invalid, send.num_bytes() - kept, stream);
  if (engine_->options().debug_checks) detail::compare_row_counts(send_counts, recv_counts, gather_on_host());
  const std::int64_t width = row_elements(recv);
  queue(call, [&](ncclComm_t comm) {
    const ncclDataType_t type = detail::nccl_type(recv.dtype());
    const auto* from = static_cast<const std::byte*>(send.raw());
    auto* to = static_cast<std::byte*>(recv.raw());
    for (int r = 0; r < size(); ++r) {
      const std::int64_t out = send_counts[static_cast<std::size_t>(r)] * width;
      const std::int64_t in = recv_counts[static_cast<std::size_t>(r)] * width;
      if (out > 0)
        NMOE_NCCL(detail::nccl().send(from, unsigned_of(out), type, r, comm, engine_->native_stream()));
      if (in > 0)
        NMOE_NCCL(detail::nccl().recv(to, unsigned_of(in), type, r, comm, engine_->native_stream()));
      from += out * size_of(recv.dtype());
      to += in * size_of(recv.dtype());
    }
  });
  return end(call, stream);
}

Work NcclCommunicator::broadcast(TensorView buffer, int root, Stream& stream) {
  if (buffer.device() == Device::cpu) return host().broadcast(buffer, root, stream);
  Call call{.operation = Operation::broadcast, .dtype = buffer.dtype(), .root = root};
  call.count = buffer.num_elements();
  std::string invalid = detail::check_buffer(buffer, Device::cuda);
  if (invalid.empty()) invalid = detail::check_root(root, size());
  call = begin(call, invalid, rank() == root ? buffer.num_bytes() * (size() - 1) : 0, stream);
  if (call.count == 0) return {};
  queue(call, [&](ncclComm_t comm) {
    NMOE_NCCL(detail::nccl().broadcast(buffer.raw(), buffer.raw(), unsigned_of(call.count),
                                       detail::nccl_type(buffer.dtype()), root, comm,
                                       engine_->native_stream()));
  });
  return end(call, stream);
}

void NcclCommunicator::close() {
  if (closed_) return;
  closed_ = true;
  if (handle_ != nullptr) {
    engine_->disconnect(*handle_);
    handle_ = nullptr;
  }
  host_->close();
}

}  // namespace

std::string why_no_nccl() {
  try {
    static_cast<void>(detail::nccl());
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

std::unique_ptr<Communicator> make_nccl_communicator(std::unique_ptr<Communicator> host,
                                                     const NcclOptions& options) {
  const std::string who = fmt::format("rank {} of {}", host->rank(), host->size());
  const CollectiveCounters before = host->counters();
  std::shared_ptr<NcclEngine> engine;
  agree(*host, [&] { engine = std::make_shared<NcclEngine>(options, who); });
  const CollectiveCounters own_traffic = sum_of(host->counters(), before, -1);
  auto world = std::make_unique<NcclCommunicator>(std::move(host), engine, own_traffic);
  world->connect();
  return world;
}

}  // namespace nmoe::comm
