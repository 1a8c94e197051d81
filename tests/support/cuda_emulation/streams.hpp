#pragma once
// The streams of the emulated device: each is a queue, and what is queued runs in an unlucky order that
// events and waits of the host still allow.
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <string_view>

struct CudaStream;

namespace nmoe::emulation {

/// Sets the order for what is queued from now on; the queues must be empty. The environment variable
/// NMOE_EMULATED_ORDER holds the first one.
/// @param order "immediate": as soon as events allow, which hides missing waits; "0" (the default): as late
/// as anybody who waits allows; "1": whatever else can run comes first; other numbers are seeds: of random
/// orders if even, of some streams at once and others late if odd
void use_order(std::string_view order);

/// Held while anything below, the queues and device memory are touched.
std::unique_lock<std::recursive_mutex> lock();

/// A place in a stream; reached when everything before it has run.
struct Point {
  CudaStream* stream = nullptr;
  bool reached = false;
  int patience = 0;  ///< questions for it that are answered with "not ready" before anything runs for it
};

/// One piece of work of a stream.
struct Operation {
  /// Returns false when it waits for another process: it is called again then.
  std::function<bool()> run;
  std::shared_ptr<Point> after, reaches;  ///< what it waits for; its own end, if anybody asks: null or new
  /// Host memory that a copy reads or writes; an error if it is freed before.
  const void* host = nullptr;
  std::size_t host_bytes = 0;
  bool writes_host = false;
  bool opens_memory = true;  ///< false: `run` makes its own DeviceAccess
};

/// Queues work on a stream, null for the default one. Work may begin at once.
void queue(CudaStream* stream, Operation operation);
/// Queues `kernel`, which runs to its end when it is called.
void queue_kernel(CudaStream* stream, std::function<void()> kernel);
/// The end of what is queued on the stream now.
std::shared_ptr<Point> mark(CudaStream* stream);
/// Runs what leads to the point, and perhaps more, as far as no other process has to be waited for. Returns
/// whether it is reached.
bool lead_to(const Point& point);
/// Returns when everything queued on any stream has run.
void finish_everything();
/// Whether a copy that has not run is to touch the host memory at `begin`.
bool is_awaited(const void* begin, std::size_t bytes);

}  // namespace nmoe::emulation
