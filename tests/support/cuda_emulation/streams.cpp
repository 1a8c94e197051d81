// The queues of the emulated streams, the orders in which they run, and the runtime's calls on streams,
// events and copies.
#include "streams.hpp"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <exception>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "cuda_runtime.h"
#include "memory.hpp"

using nmoe::emulation::DeviceAccess;
using nmoe::emulation::Operation;
using nmoe::emulation::Point;

struct CudaStream {
  std::deque<Operation> queue;
  bool eager = false;    ///< of some orders: it runs as soon as it can
  bool stalled = false;  ///< its first operation waits for another process
  bool destroyed = false;

  bool waits() const { return queue.front().after != nullptr && !queue.front().after->reached; }
  bool can_run() const { return !queue.empty() && !stalled && !waits(); }
};
struct CudaEvent {
  std::shared_ptr<Point> point;  ///< of the last record; null before the first
};

namespace {

enum class Policy { immediate, late, others_first, random, skewed };

class Scheduler {
 public:
  Scheduler() {
    streams_.push_back(std::make_unique<CudaStream>());
    const char* text = std::getenv("NMOE_EMULATED_ORDER");
    use_order(text == nullptr ? "immediate" : text);
  }

  std::recursive_mutex mutex;
  std::string error;  ///< of an operation; every call fails from then on, as in CUDA

  void use_order(std::string_view order) {
    for (const auto& stream : streams_) {
      if (!stream->queue.empty()) std::abort();
    }
    error.clear();
    const std::uint64_t seed = std::strtoull(std::string(order).c_str(), nullptr, 10);
    policy_ = order == "immediate" ? Policy::immediate
              : seed == 0          ? Policy::late
              : seed == 1          ? Policy::others_first
              : seed % 2 == 0      ? Policy::random
                                   : Policy::skewed;
    const char* rank = std::getenv("OMPI_COMM_WORLD_RANK");  // each in its own order
    random_.seed(seed * 1024 + (rank == nullptr ? 0 : std::strtoull(rank, nullptr, 10)));
    for (const auto& stream : streams_) draw_eagerness(*stream);
  }

  CudaStream& default_stream() { return *streams_.front(); }
  CudaStream& create() {
    streams_.push_back(std::make_unique<CudaStream>());
    draw_eagerness(*streams_.back());
    return *streams_.back();
  }
  void destroy(CudaStream& stream) {
    stream.destroyed = true;  // what is queued runs all the same
    std::erase_if(streams_, [](const auto& s) { return s->destroyed && s->queue.empty(); });
  }

  void queue(CudaStream& stream, Operation operation) {
    if (!error.empty()) {
      if (operation.reaches) operation.reaches->reached = true;
      return;
    }
    if (operation.reaches) {
      operation.reaches->stream = &stream;
      operation.reaches->patience = drawn_patience();
    }
    stream.queue.push_back(std::move(operation));
    if (draw(64) == 0) draw_eagerness(stream);
    if (policy_ == Policy::immediate || policy_ == Policy::skewed) {
      run_some([](const CudaStream& s) { return s.eager; }, -1);
    } else if (policy_ == Policy::random && draw(3) == 0) {
      run_some([](const CudaStream&) { return true; }, static_cast<int>(draw(8)));
    }
  }

  /// Runs operations until `done()`; false if those that lead there wait for another process.
  template <typename Done>
  bool lead(Done done, CudaStream& wanted) {
    for (const auto& stream : streams_) stream->stalled = false;
    std::optional<DeviceAccess> access;
    while (!done() && error.empty()) {
      CudaStream* chosen = choose(wanted);
      if (chosen == nullptr) return false;
      run_one(*chosen, access);
    }
    return true;
  }

  /// Any stream that holds work; null if none does.
  CudaStream* busy() {
    return random_of([](const CudaStream& s) { return !s.queue.empty(); });
  }
  bool is_awaited(const void* begin, std::size_t bytes, bool written_only) const {
    const auto* first = static_cast<const char*>(begin);
    for (const auto& stream : streams_) {
      for (const Operation& o : stream->queue) {
        const auto* host = static_cast<const char*>(o.host);
        if (host != nullptr && host < first + bytes && first < host + o.host_bytes &&
            (o.writes_host || !written_only))
          return true;
      }
    }
    return false;
  }

 private:
  int drawn_patience() {
    if (policy_ == Policy::immediate) return 0;
    return policy_ == Policy::late || draw(2) == 0 ? 64 : static_cast<int>(draw(4));
  }
  std::size_t draw(std::size_t below) { return static_cast<std::size_t>(random_() % below); }
  void draw_eagerness(CudaStream& stream) {
    stream.eager = policy_ == Policy::immediate || (policy_ == Policy::skewed && draw(2) == 0);
  }

  template <typename Condition>
  CudaStream* random_of(Condition condition) {
    std::vector<CudaStream*> found;
    for (const auto& stream : streams_) {
      if (condition(*stream)) found.push_back(stream.get());
    }
    return found.empty() ? nullptr : found[draw(found.size())];
  }

  /// The stream whose next operation comes before anything else that leads on in `wanted`.
  static CudaStream& needed_for(CudaStream& wanted) {
    CudaStream* stream = &wanted;
    while (stream->waits()) stream = stream->queue.front().after->stream;
    return *stream;
  }

  CudaStream* choose(CudaStream& wanted) {
    CudaStream& needed = needed_for(wanted);
    CudaStream* other = nullptr;
    if (policy_ == Policy::random) {
      other = random_of([](const CudaStream& s) { return s.can_run(); });
    } else if (policy_ == Policy::others_first) {
      other = random_of([&](const CudaStream& s) { return &s != &needed && s.can_run(); });
    } else if (policy_ == Policy::skewed) {
      other = random_of([&](const CudaStream& s) { return &s != &needed && s.eager && s.can_run(); });
    }
    if (other != nullptr) return other;
    return needed.stalled ? nullptr : &needed;
  }

  template <typename Condition>
  void run_some(Condition condition, int count) {
    std::optional<DeviceAccess> access;
    for (; count != 0; --count) {
      CudaStream* stream = random_of([&](const CudaStream& s) { return condition(s) && s.can_run(); });
      if (stream == nullptr) return;
      run_one(*stream, access);
    }
  }

  void run_one(CudaStream& stream, std::optional<DeviceAccess>& access) {
    const Operation& operation = stream.queue.front();
    try {
      if (operation.run) {
        if (operation.opens_memory && !access) access.emplace();
        if (!operation.run()) {
          stream.stalled = true;
          return;
        }
      }
    } catch (const std::exception& problem) {
      fail(problem.what());
      return;
    }
    if (operation.reaches) operation.reaches->reached = true;
    stream.queue.pop_front();
  }

  void fail(const std::string& message) {
    error = message;
    for (const auto& stream : streams_) {
      for (const Operation& o : stream->queue) {
        if (o.reaches) o.reaches->reached = true;
      }
      stream->queue.clear();
    }
  }

  std::vector<std::unique_ptr<CudaStream>> streams_;
  Policy policy_ = Policy::late;
  std::mt19937_64 random_;
};

Scheduler& scheduler() {
  static auto* only = new Scheduler;  // device memory of static objects comes back after main
  return *only;
}

cudaError_t status() {
  return scheduler().error.empty() ? cudaSuccess : cudaErrorLaunchFailure;
}
CudaStream& stream_of(CudaStream* stream) {
  return stream == nullptr ? scheduler().default_stream() : *stream;
}

/// Answers a question of the host, which may ask again at once: nothing has to run before it has asked often.
cudaError_t answer(Point& point) {
  if (!point.reached && point.patience-- <= 0) nmoe::emulation::lead_to(point);
  if (status() != cudaSuccess) return status();
  return point.reached ? cudaSuccess : cudaErrorNotReady;
}

/// A copy to host memory may write it at any time from now on, one from there reads it in the end: what the
/// host does to it in between is an error.
std::function<bool()> copy_of(void* to, const void* from, std::size_t bytes, Operation& operation) {
  const bool to_host = !nmoe::emulation::is_device_memory(to);
  const bool from_host = !nmoe::emulation::is_device_memory(from);
  operation.host = to_host ? to : from_host ? from : nullptr;
  operation.host_bytes = bytes;
  operation.writes_host = to_host;
  std::vector<unsigned char> before;
  if (to_host) {
    if (!scheduler().is_awaited(to, bytes, false)) std::memset(to, nmoe::emulation::poison, bytes);
  } else if (from_host && !scheduler().is_awaited(from, bytes, true)) {
    before.assign(static_cast<const unsigned char*>(from), static_cast<const unsigned char*>(from) + bytes);
  }
  return [=, before = std::move(before)] {
    if (!before.empty() && std::memcmp(before.data(), from, bytes) != 0)
      throw std::runtime_error("host memory has changed before a copy on a stream has read it");
    std::memmove(to, from, bytes);
    return true;
  };
}

}  // namespace

namespace nmoe::emulation {

void use_order(std::string_view order) {
  const auto held = lock();
  scheduler().use_order(order);
}
std::unique_lock<std::recursive_mutex> lock() {
  return std::unique_lock(scheduler().mutex);
}
void queue(CudaStream* stream, Operation operation) {
  const auto held = lock();
  scheduler().queue(stream_of(stream), std::move(operation));
}
void queue_kernel(CudaStream* stream, std::function<void()> kernel) {
  Operation operation;
  operation.run = [kernel = std::move(kernel)] {
    kernel();
    return true;
  };
  queue(stream, std::move(operation));
}
std::shared_ptr<Point> mark(CudaStream* stream) {
  const auto held = lock();
  Operation operation;
  operation.reaches = std::make_shared<Point>();
  const auto point = operation.reaches;
  scheduler().queue(stream_of(stream), std::move(operation));
  return point;
}
bool lead_to(const Point& point) {
  const auto held = lock();
  if (point.reached) return true;
  return scheduler().lead([&] { return point.reached; }, *point.stream);
}
void finish_everything() {
  while (true) {
    {
      const auto held = lock();
      CudaStream* stream = scheduler().busy();
      if (stream == nullptr) return;
      if (scheduler().lead([&] { return stream->queue.empty(); }, *stream)) continue;
    }
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
}
bool is_awaited(const void* begin, std::size_t bytes) {
  const auto held = lock();
  return scheduler().is_awaited(begin, bytes, false);
}

}  // namespace nmoe::emulation

using nmoe::emulation::lock;

cudaError_t cudaMemsetAsync(void* pointer, int value, std::size_t bytes, cudaStream_t stream) {
  nmoe::emulation::queue_kernel(stream, [=] { std::memset(pointer, value, bytes); });
  return status();
}
cudaError_t cudaMemset(void* pointer, int value, std::size_t bytes) {
  return cudaMemsetAsync(pointer, value, bytes, nullptr);  // does not wait either
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind,
                            cudaStream_t stream) {
  nmoe::emulation::note_work('c');
  const auto held = lock();
  Operation operation;
  operation.run = copy_of(to, from, bytes, operation);
  nmoe::emulation::queue(stream, std::move(operation));
  return status();
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  if (flags != cudaStreamNonBlocking) std::abort();  // would wait for the default stream: not emulated
  const auto held = lock();
  *stream = &scheduler().create();
  return status();
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const auto held = lock();
  scheduler().destroy(*stream);
  return status();
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const auto point = nmoe::emulation::mark(stream);
  while (!nmoe::emulation::lead_to(*point)) std::this_thread::sleep_for(std::chrono::microseconds(100));
  return status();
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  nmoe::emulation::note_work('q');
  const auto held = lock();
  CudaStream& asked = stream_of(stream);
  if (asked.queue.empty()) return status();
  if (asked.queue.back().reaches == nullptr) nmoe::emulation::mark(stream);
  const auto point = asked.queue.empty() ? nullptr : asked.queue.back().reaches;
  return point == nullptr ? status() : answer(*point);
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  const auto held = lock();
  if (event->point == nullptr || event->point->reached) return status();
  Operation operation;
  operation.after = event->point;
  nmoe::emulation::queue(stream, std::move(operation));
  return status();
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CudaEvent;
  return status();
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  const auto held = lock();
  delete event;
  return status();
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  nmoe::emulation::note_work();
  const auto held = lock();
  event->point = nmoe::emulation::mark(stream);
  return status();
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  nmoe::emulation::note_work();
  const auto held = lock();
  return event->point == nullptr ? status() : answer(*event->point);
}
const char* cudaGetErrorString(cudaError_t status) {
  switch (status) {
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInsufficientDriver:
      return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
    case cudaErrorUnknown:
      return "unknown error";
    case cudaErrorLaunchFailure:
      return scheduler().error.c_str();
    default:
      return "no error";
  }
}
cudaError_t cudaGetLastError() {
  return status();
}
