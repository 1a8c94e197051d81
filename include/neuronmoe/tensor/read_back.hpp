#pragma once
// Results of many kernels brought to the host in a few large copies that run beside the kernels. analysis
// reads pooled activations with it.
#include <functional>
#include <vector>

#include "neuronmoe/tensor/device.hpp"

namespace nmoe {

/// Two pieces of memory on each side take turns: one is filled by kernels of the stream while the other
/// travels on a stream of its own.
class ReadBack {
 public:
  using Receiver = std::function<void(ConstTensorView on_host)>;

  /// @param stream on a GPU; must outlive this   @param piece_bytes of each of the four memories; larger
  /// tensors make them grow
  ReadBack(Stream& stream, std::int64_t piece_bytes);
  ~ReadBack();
  ReadBack(const ReadBack&) = delete;
  ReadBack& operator=(const ReadBack&) = delete;

  /// Returns uninitialized device memory for kernels queued on the stream before the next call of a member
  /// function. `receive` gets what they wrote, in host memory that is valid only during that call; receivers
  /// are called by take and drain, in the order of the takes.
  TensorView take(Shape shape, DType dtype, Receiver receive);
  /// Returns when every receiver has been called.
  void drain();

 private:
  struct Piece;
  void send(Piece& piece);
  void deliver(Piece& piece);

  Stream& stream_;
  OwnedStream copies_;
  std::int64_t piece_bytes_;
  std::vector<Piece> pieces_;
  std::size_t filling_ = 0;
};

}  // namespace nmoe
