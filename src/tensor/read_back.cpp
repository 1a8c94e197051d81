// Results collected on the GPU and copied to the host while the next ones are computed.
#include "neuronmoe/tensor/read_back.hpp"

#include <algorithm>
#include <memory>
#include <utility>

namespace nmoe {
namespace {

constexpr std::int64_t alignment = 256;

}  // namespace

struct ReadBack::Piece {
  struct Part {
    std::int64_t offset;
    Shape shape;
    DType dtype;
    Receiver receive;
  };
  Tensor device;
  std::unique_ptr<PinnedMemory> host;
  std::int64_t capacity = 0, used = 0;
  std::vector<Part> parts;
  std::unique_ptr<Event> ready = std::make_unique<Event>(Device::cuda),
                         copied = std::make_unique<Event>(Device::cuda);
  bool travels = false;
};

ReadBack::ReadBack(Stream& stream, std::int64_t piece_bytes)
    : stream_(stream), copies_(stream.device()), piece_bytes_(piece_bytes), pieces_(2) {}

ReadBack::~ReadBack() = default;

TensorView ReadBack::take(Shape shape, DType dtype, Receiver receive) {
  const std::int64_t bytes = shape.num_elements() * size_of(dtype);
  if (pieces_[filling_].used > 0 && pieces_[filling_].used + bytes > pieces_[filling_].capacity) {
    send(pieces_[filling_]);
    filling_ = 1 - filling_;
    deliver(pieces_[filling_]);
  }
  Piece& piece = pieces_[filling_];
  if (bytes > piece.capacity) {  // nothing in it
    piece.capacity = std::max(bytes, piece_bytes_);
    piece.device = {};
    piece.host.reset();
    piece.device = Tensor({piece.capacity}, DType::uint8, stream_.device());
    piece.host = std::make_unique<PinnedMemory>(piece.capacity);
  }
  auto* begin = static_cast<unsigned char*>(piece.device.view().raw()) + piece.used;
  piece.parts.push_back({piece.used, shape, dtype, std::move(receive)});
  piece.used = std::min(piece.capacity, (piece.used + bytes + alignment - 1) / alignment * alignment);
  return {begin, dtype, shape, stream_.device()};
}

void ReadBack::drain() {
  deliver(pieces_[1 - filling_]);
  if (pieces_[filling_].parts.empty()) return;
  send(pieces_[filling_]);
  deliver(pieces_[filling_]);
}

void ReadBack::send(Piece& piece) {
  piece.ready->record(stream_);
  piece.ready->make_wait(copies_.stream());
  if (piece.used > 0)
    start_copy(TensorView(piece.host->data(), DType::uint8, {piece.used}),
               piece.device.view().rows(0, piece.used), copies_.stream());
  piece.copied->record(copies_.stream());
  piece.travels = true;
}

void ReadBack::deliver(Piece& piece) {
  if (!piece.travels) return;
  piece.copied->wait();
  const auto* host = piece.host ? static_cast<const unsigned char*>(piece.host->data()) : nullptr;
  for (const auto& part : piece.parts) part.receive({host + part.offset, part.dtype, part.shape});
  piece.parts.clear();
  piece.used = 0;
  piece.travels = false;
}

}  // namespace nmoe
