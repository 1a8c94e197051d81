// The communicator of one rank: every call checks its arguments and copies as the MPI version would, on
// either device.
#include <mutex>

#include "arguments.hpp"
#include "neuronmoe/tensor/device.hpp"

namespace nmoe::comm {

namespace {

class LocalCommunicator final : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }

  Work all_reduce(TensorView inout, ReduceOp, Stream&) override {
    start(Operation::all_reduce, detail::check_buffer(inout, inout.device()));
    return {};
  }
  Work all_gather_v(TensorView recv, std::span<const std::int64_t> counts, ConstTensorView send,
                    Stream& stream) override {
    start(Operation::all_gather_v, detail::check_all_gather_v(0, 1, recv, counts, send, recv.device()));
    copy_bytes(recv, send, stream);
    return {};
  }
  Work all_to_all_v(TensorView recv, std::span<const std::int64_t> recv_counts, ConstTensorView send,
                    std::span<const std::int64_t> send_counts, Stream& stream) override {
    start(Operation::all_to_all_v,
          detail::check_all_to_all_v(1, recv, recv_counts, send, send_counts, recv.device()));
    copy_bytes(recv, send, stream);
    return {};
  }
  Work broadcast(TensorView buffer, int root, Stream&) override {
    std::string error = detail::check_buffer(buffer, buffer.device());
    start(Operation::broadcast, error.empty() ? detail::check_root(root, 1) : error);
    return {};
  }
  void barrier() override { start(Operation::barrier, ""); }
  std::unique_ptr<Communicator> split(int color, int) override {
    start(Operation::split, color >= 0 ? "" : fmt::format("negative color {}", color));
    return make_local_communicator();
  }
  void drain() override {}
  void* native() const override { return nullptr; }
  void close() override {}
  std::string last_operation() const override {
    const std::lock_guard lock(mutex_);
    return last_;
  }

 private:
  void start(Operation operation, const std::string& error) {
    NMOE_CHECK(error.empty(), internal, "{}: {}", name_of(operation), error);
    ++counters_[operation].calls;
    const std::lock_guard lock(mutex_);  // the watchdog reads it from its own thread
    last_ = name_of(operation);
  }
  static void copy_bytes(TensorView recv, ConstTensorView send, Stream& stream) {
    if (recv.raw() != send.raw()) copy(recv, send, stream);
  }

  mutable std::mutex mutex_;
  std::string last_ = "none";
};

}  // namespace

std::unique_ptr<Communicator> make_local_communicator() {
  return std::make_unique<LocalCommunicator>();
}

}  // namespace nmoe::comm
