#pragma once
// Streams, events and copies between host and GPU: what ops, comm, model and app need of a device besides
// kernels. In a build without CUDA everything here works for Device::cpu and throws Error(config) for
// Device::cuda.
#include <memory>
#include <string>

#include "neuronmoe/tensor/stream.hpp"
#include "neuronmoe/tensor/tensor.hpp"

namespace nmoe {

/// What a GPU is called and where it sits; `uuid` tells two ranks whether they hold the same one: instances
/// of a partitioned GPU (MIG) share its bus id.
struct CudaDevice {
  int index = 0;
  std::string name, bus_id, uuid;
  std::int64_t memory_bytes = 0;
};
/// Returns why num_cuda_devices() is 0, in words that go after a colon: the driver's own if it gave any, and
/// both versions where it is too old; "" if there is a device.
std::string why_no_cuda_device();
/// Makes GPU `index` the one of this process (its calling thread) and describes it.
/// @throws Error(config) if there is no such GPU.
CudaDevice select_cuda_device(int index);
/// Makes GPU `index`, which this process has chosen before, the one of the calling thread, too: a new thread
/// starts with GPU 0. Returns whether that went well.
bool use_cuda_device(int index) noexcept;
/// Returns the one chosen for this thread.
CudaDevice current_cuda_device();

/// Memory on GPUs that this process has: bytes now, at most at once so far, and how often it asked for some.
struct DeviceMemory {
  std::int64_t in_use = 0, peak = 0, num_allocations = 0;
};
DeviceMemory device_memory();
/// Bytes of the chosen GPU as its driver counts them: what nobody holds, and all. Of what is held
/// DeviceMemory is a part; the rest is the context, libraries, and other processes.
struct CardMemory {
  std::int64_t free = 0, total = 0;
};
/// @throws Error(internal) on a CUDA error, Error(config) in a build without CUDA
CardMemory card_memory();

/// A stream of its own. `stream()` stays valid as long as this lives.
class OwnedStream {
 public:
  explicit OwnedStream(Device device);
  ~OwnedStream();
  OwnedStream(const OwnedStream&) = delete;
  OwnedStream& operator=(const OwnedStream&) = delete;
  Stream& stream() { return stream_; }

 private:
  Stream stream_;
};

/// A point in a stream that another stream, or the host, can wait for.
class Event {
 public:
  explicit Event(Device device);
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void record(Stream& stream);
  /// Makes work queued on `stream` from now on wait for the recorded point.
  void make_wait(Stream& stream) const;
  bool reached() const;
  /// Makes the host wait: polls, and gives up after `timeout_s`. @throws as synchronize
  void wait(double timeout_s = 600.0) const;

 private:
  Device device_;
  void* native_ = nullptr;
};

/// Returns when everything queued on the stream has finished; polls, and gives up after `timeout_s`.
/// @throws Error(internal) on a CUDA error, Error(watchdog) after the time.
void synchronize(Stream& stream, double timeout_s = 600.0);

/// Page-locked host memory: what a GPU copies from and to while the host goes on. Never shrinks, not movable.
class PinnedMemory {
 public:
  explicit PinnedMemory(std::int64_t num_bytes);
  ~PinnedMemory();
  PinnedMemory(const PinnedMemory&) = delete;
  PinnedMemory& operator=(const PinnedMemory&) = delete;
  void* data() const { return data_; }
  std::int64_t num_bytes() const { return num_bytes_; }

 private:
  void* data_;
  std::int64_t num_bytes_;
};

/// dst = src in the order of the stream, one side on the GPU, the other in PinnedMemory. Returns at once: the
/// host may touch its side when the stream has got there.   @throws Error(internal) if the two disagree.
void start_copy(TensorView dst, ConstTensorView src, Stream& stream);
/// dst = src, element types and counts equal, either side on either device, in the order of the stream. When
/// one side is host memory (not PinnedMemory) the call returns only when that memory may be read or written
/// again: it waits for the stream, within the time of synchronize(). Both on the host: done at once. @throws
/// Error(internal) if they disagree.
void copy(TensorView dst, ConstTensorView src, Stream& stream);
/// Returns the same elements on `device`, as an owning tensor.
Tensor copied_to(Device device, ConstTensorView src, Stream& stream);
/// Where host code fills a tensor that may be on a GPU: the tensor itself, or host memory that `send` copies
/// over.
class HostSide {
 public:
  HostSide(TensorView target, Stream& stream) : target_(target), stream_(stream) {
    if (target.device() != Device::cpu) staging_ = Tensor(target.shape(), target.dtype());
  }
  TensorView view() { return staging_.valid() ? staging_.view() : target_; }
  void send() {
    if (staging_.valid()) copy(target_, staging_.view(), stream_);
  }

 private:
  TensorView target_;
  Stream& stream_;
  Tensor staging_;
};
/// Sets every byte to 0, in the order of the stream.
void zero(TensorView dst, Stream& stream);

}  // namespace nmoe
