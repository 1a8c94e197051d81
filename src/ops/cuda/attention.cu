// Attention entry points: the tile table of a batch, Σ d_o · o, and the choice between the two sets of
// kernels.
#include <vector>

#include "attention_tiles.cuh"
#include "launch.hpp"
#include "neuronmoe/tensor/device.hpp"
#include "scratch.hpp"

namespace nmoe::ops::cuda {

using namespace device;

namespace {

/// Tiles of all sequences, the ones with most keys first so that the last blocks to start are short. The
/// table goes to the GPU only when the offsets differ from the last call's on this stream: layers of one
/// forward share it.
struct TileTable {
  std::vector<std::int64_t> offsets;
  std::vector<SequenceTile> tiles;
  const SequenceTile* on_device = nullptr;

  void update(std::span<const std::int64_t> wanted, Stream& stream) {
    if (on_device != nullptr && std::equal(wanted.begin(), wanted.end(), offsets.begin(), offsets.end()))
      return;
    offsets.assign(wanted.begin(), wanted.end());
    tiles.clear();
    for (std::size_t b = 0; b + 1 < offsets.size(); ++b) {
      const auto length = static_cast<std::int32_t>(offsets[b + 1] - offsets[b]);
      for (std::int32_t row = 0; row < length; row += tile_rows) tiles.push_back({offsets[b], length, row});
    }
    std::stable_sort(tiles.begin(), tiles.end(), [](const auto& a, const auto& b) { return a.row > b.row; });
    const auto bytes = static_cast<std::int64_t>(tiles.size() * sizeof(SequenceTile));
    auto* memory = scratch<SequenceTile>(stream, Scratch::tiles, static_cast<std::int64_t>(tiles.size()));
    copy(TensorView(memory, DType::uint8, {bytes}, Device::cuda),
         ConstTensorView(tiles.data(), DType::uint8, {bytes}), stream);
    on_device = memory;
  }
  std::int64_t size() const { return static_cast<std::int64_t>(tiles.size()); }
};

const TileTable& tiles_of(std::span<const std::int64_t> offsets, Stream& stream) {
  thread_local std::vector<std::pair<void*, TileTable>> tables;  // one per stream of this thread
  for (auto& [native_stream, table] : tables) {
    if (native_stream != stream.native()) continue;
    table.update(offsets, stream);
    return table;
  }
  tables.emplace_back(stream.native(), TileTable{});
  tables.back().second.update(offsets, stream);
  return tables.back().second;
}

AttentionShape shape_of(ConstTensorView q, ConstTensorView k, double scale, bool packed) {
  return {static_cast<int>(q.dim(1)), static_cast<int>(k.dim(1)), static_cast<int>(q.dim(2)),
          static_cast<float>(scale), packed};
}

template <typename T>
constexpr bool tensor_cores(std::int64_t width) {
  return sizeof(T) == 2 && width <= 128;
}

/// delta[row] = Σ d_o · o: a warp per row of [T·H, d].
template <typename T>
__global__ __launch_bounds__(attention_threads) void delta_kernel(float* delta, const T* d_o, const T* o,
                                                                  std::int64_t rows, int width) {
  const std::int64_t row = std::int64_t{blockIdx.x} * (attention_threads / 32) + threadIdx.x / 32;
  if (row >= rows) return;
  float sum = 0.0F;
  for (std::int64_t i = threadIdx.x % 32; i < width; i += 32) {
    sum += to_float(d_o[row * width + i]) * to_float(o[row * width + i]);
  }
  sum = fold_warp(sum);
  if (threadIdx.x % 32 == 0) delta[row] = sum;
}

}  // namespace

void attention_forward(TensorView o, TensorView lse, ConstTensorView q, ConstTensorView k, ConstTensorView v,
                       std::span<const std::int64_t> offsets, double scale, Stream& stream) {
  if (q.num_elements() == 0) return;
  const AttentionShape shape = shape_of(q, k, scale, fits_packs(q.dim(2), {o, q, k, v}));
  const TileTable& tiles = tiles_of(offsets, stream);
  visit_element("attention_forward", q.dtype(), [&]<typename T>() {
    if constexpr (std::is_same_v<T, bfloat16>) {
      if (tensor_cores<T>(q.dim(2))) {
        attention_forward_tensor_cores(o.data<T>(), lse.data<float>(), q.data<T>(), k.data<T>(), v.data<T>(),
                                       shape, tiles.on_device, tiles.size(), stream);
        return;
      }
    }
    attention_forward_plain(o.data<T>(), lse.data<float>(), q.data<T>(), k.data<T>(), v.data<T>(), shape,
                            tiles.on_device, tiles.size(), stream);
  });
}

void attention_prefixed_forward(TensorView o, ConstTensorView q, ConstTensorView k, ConstTensorView v,
                                std::span<const PrefixedSequence> sequences, double scale, Stream& stream) {
  if (q.num_elements() == 0) return;
  std::vector<PrefixedTile> tiles;
  for (const PrefixedSequence& sequence : sequences) {
    for (std::int64_t row = 0; row < sequence.length; row += tile_rows) tiles.push_back({sequence, row});
  }
  const auto count = static_cast<std::int64_t>(tiles.size());
  const auto bytes = count * static_cast<std::int64_t>(sizeof(PrefixedTile));
  auto* on_device = scratch<PrefixedTile>(stream, Scratch::prefixed_tiles, count);
  copy(TensorView(on_device, DType::uint8, {bytes}, Device::cuda),
       ConstTensorView(tiles.data(), DType::uint8, {bytes}), stream);
  const AttentionShape shape = shape_of(q, k, scale, false);
  visit_element("attention_prefixed_forward", q.dtype(), [&]<typename T>() {
    attention_prefixed_plain(o.data<T>(), q.data<T>(), k.data<T>(), v.data<T>(), shape, on_device, count,
                             stream);
  });
}

void attention_backward(TensorView dq, TensorView dk, TensorView dv, ConstTensorView d_o, ConstTensorView o,
                        ConstTensorView q, ConstTensorView k, ConstTensorView v, ConstTensorView lse,
                        std::span<const std::int64_t> offsets, double scale, Stream& stream) {
  if (q.num_elements() == 0) return;
  const AttentionShape shape = shape_of(q, k, scale, fits_packs(q.dim(2), {dq, dk, dv, d_o, q, k, v}));
  const TileTable& tiles = tiles_of(offsets, stream);
  const std::int64_t rows = q.dim(0) * q.dim(1);
  auto* delta = scratch<float>(stream, Scratch::delta, rows);
  visit_element("attention_backward", q.dtype(), [&]<typename T>() {
    launch(delta_kernel<T>, grid_size(blocks_for(rows, attention_threads / 32)), attention_threads, 0, stream,
           delta, d_o.data<T>(), o.data<T>(), rows, shape.width);
    const AttentionGradients<T> x{dq.data<T>(), dk.data<T>(), dv.data<T>(),      d_o.data<T>(), q.data<T>(),
                                  k.data<T>(),  v.data<T>(),  lse.data<float>(), delta};
    if constexpr (std::is_same_v<T, bfloat16>) {
      if (tensor_cores<T>(q.dim(2))) {
        attention_backward_tensor_cores(x, shape, tiles.on_device, tiles.size(), stream);
        return;
      }
    }
    attention_backward_plain(x, shape, tiles.on_device, tiles.size(), stream);
  });
}

}  // namespace nmoe::ops::cuda
