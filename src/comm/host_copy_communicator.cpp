// Device tensors over a communicator for host tensors: device -> page-locked memory -> collective -> device.
#include <algorithm>
#include <vector>

#include "neuronmoe/comm/device_communicator.hpp"
#include "neuronmoe/tensor/device.hpp"

namespace nmoe::comm {

namespace {

/// Page-locked memory for one tensor of one collective. Free again when no Work holds it and the copy back to
/// the device, if there was one, is over.
struct Slot {
  std::unique_ptr<PinnedMemory> memory;
  Event copied_back{Device::cuda};
  std::int64_t num_bytes() const { return memory ? memory->num_bytes() : 0; }
};

/// The slots of a communicator and all groups split from it.
class Staging {
 public:
  std::shared_ptr<Slot> take(std::int64_t num_bytes) {
    std::shared_ptr<Slot>* best = nullptr;
    for (std::shared_ptr<Slot>& slot : slots_) {
      if (slot.use_count() > 1 || !slot->copied_back.reached()) continue;
      if (best == nullptr || better((*best)->num_bytes(), slot->num_bytes(), num_bytes)) best = &slot;
    }
    if (best == nullptr) best = &slots_.emplace_back(std::make_shared<Slot>());
    if ((*best)->num_bytes() < num_bytes) {
      (*best)->memory.reset();
      (*best)->memory = std::make_unique<PinnedMemory>(num_bytes);
    }
    return *best;
  }

 private:
  /// The smallest that is large enough; if none is, the largest.
  static bool better(std::int64_t old_bytes, std::int64_t new_bytes, std::int64_t wanted) {
    if ((old_bytes >= wanted) != (new_bytes >= wanted)) return new_bytes >= wanted;
    return old_bytes >= wanted ? new_bytes < old_bytes : new_bytes > old_bytes;
  }

  std::vector<std::shared_ptr<Slot>> slots_;
};

/// The host side of one tensor: the tensor itself if it is there already.
class Staged {
 public:
  Staged() = default;
  Staged(TensorView target, Staging& staging) : target_(target), host_(target) {
    if (!target || target.device() == Device::cpu) return;
    void* memory = nullptr;
    if (target.num_elements() > 0) {
      slot_ = staging.take(target.num_bytes());
      memory = slot_->memory->data();
    }
    host_ = TensorView(memory, target.dtype(), target.shape());
  }
  TensorView host() const { return host_; }
  bool is_copy() const { return slot_ != nullptr; }
  /// Returns when host() holds what the device tensor does at this point of the stream.
  void fetch(Stream& stream) const {
    if (slot_ == nullptr) return;
    start_copy(host_, target_, stream);
    synchronize(stream);
  }
  void give_back(Stream& stream) const {
    if (slot_ == nullptr) return;
    start_copy(target_, host_, stream);
    slot_->copied_back.record(stream);
  }

 private:
  TensorView target_, host_;
  std::shared_ptr<Slot> slot_;
};

/// Sends are only read; Staged serves both directions.
TensorView as_mutable(ConstTensorView view) {
  if (!view) return {};
  return {const_cast<void*>(view.raw()),  // NOLINT(cppcoreguidelines-pro-type-const-cast)
          view.dtype(), view.shape(), view.device()};
}

class HostCopyCommunicator final : public Communicator {
 public:
  HostCopyCommunicator(std::unique_ptr<Communicator> host, std::shared_ptr<Staging> staging)
      : host_(std::move(host)), staging_(std::move(staging)) {}

  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }

  Work all_reduce(TensorView inout, ReduceOp op, Stream& stream) override {
    if (stays_here(inout, stream)) return alone_->all_reduce(inout, op, stream);
    const Staged data(inout, *staging_);
    data.fetch(stream);
    return after(host_->all_reduce(data.host(), op, stream), stream, data);
  }
  Work all_gather_v(TensorView recv, std::span<const std::int64_t> counts, ConstTensorView send,
                    Stream& stream) override {
    if (stays_here(recv, stream)) return alone_->all_gather_v(recv, counts, send, stream);
    const Staged to(recv, *staging_), from(as_mutable(send), *staging_);
    from.fetch(stream);
    return after(host_->all_gather_v(to.host(), counts, from.host(), stream), stream, to, from);
  }
  Work all_to_all_v(TensorView recv, std::span<const std::int64_t> recv_counts, ConstTensorView send,
                    std::span<const std::int64_t> send_counts, Stream& stream) override {
    if (stays_here(recv, stream)) return alone_->all_to_all_v(recv, recv_counts, send, send_counts, stream);
    const Staged to(recv, *staging_), from(as_mutable(send), *staging_);
    from.fetch(stream);
    return after(host_->all_to_all_v(to.host(), recv_counts, from.host(), send_counts, stream), stream, to,
                 from);
  }
  Work broadcast(TensorView buffer, int root, Stream& stream) override {
    if (stays_here(buffer, stream)) return alone_->broadcast(buffer, root, stream);
    const Staged data(buffer, *staging_);
    if (rank() == root) data.fetch(stream);
    Work work = host_->broadcast(data.host(), root, stream);
    return rank() == root ? after(std::move(work), stream, {}, data) : after(std::move(work), stream, data);
  }
  void barrier() override { host_->barrier(); }
  std::unique_ptr<Communicator> split(int color, int key) override {
    return std::make_unique<HostCopyCommunicator>(host_->split(color, key), staging_);
  }
  void drain() override { host_->drain(); }
  void* native() const override { return host_->native(); }
  void close() override { host_->close(); }
  std::string last_operation() const override { return host_->last_operation(); }
  std::string gpu_transport() const override {
    return size() == 1 ? "no other rank" : "copies through host memory";
  }
  const CollectiveCounters& counters() const override {
    all_counters_ = host_->counters();
    for (std::size_t i = 0; i < num_operations; ++i)
      all_counters_.entries[i].calls += alone_->counters().entries[i].calls;
    return all_counters_;
  }

 private:
  /// `result` goes back to the device when the collective is over; the memory of both is kept until then.
  static Work after(Work work, const Stream& stream, const Staged& result, const Staged& sent = {}) {
    if (!result.is_copy() && !sent.is_copy()) return work;
    return Work(
        [result, sent, stream = Stream(stream), work = std::make_shared<Work>(std::move(work))]() mutable {
          work->wait();
          result.give_back(stream);
        });
  }

  /// One rank needs no host to talk to itself: alone_ does, in the order of the stream.
  bool stays_here(ConstTensorView view, const Stream& stream) const {
    if (size() != 1 || !view || view.device() != Device::cuda) return false;
    NMOE_CHECK(stream.device() == Device::cuda, internal, "a tensor on a GPU and a stream of the CPU");
    return true;
  }

  std::unique_ptr<Communicator> host_, alone_ = make_local_communicator();
  std::shared_ptr<Staging> staging_;
  mutable CollectiveCounters all_counters_;
};

}  // namespace

std::unique_ptr<Communicator> make_host_copy_communicator(std::unique_ptr<Communicator> host) {
  return std::make_unique<HostCopyCommunicator>(std::move(host), std::make_shared<Staging>());
}

}  // namespace nmoe::comm
