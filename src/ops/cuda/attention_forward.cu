// Causal attention forward on the tensor cores (Dao, FlashAttention-2, 2023): a block owns 64 queries of one
// head and walks over the keys 64 at a time with an online softmax; scores never leave registers.
#include "attention_tiles.cuh"
#include "launch.hpp"

namespace nmoe::ops::cuda {

using namespace device;

namespace {

/// Running maximum (of scores in units of log 2) and sum of a lane's two rows.
struct OnlineSoftmax {
  float largest[2] = {-INFINITY, -INFINITY}, total[2] = {0.0F, 0.0F};

  /// Turns scores into e^(score − largest so far) and rescales what was summed before.
  template <int keys, int head>
  __device__ void update(float (&s)[keys / 8][4], float (&sums)[head / 8][4]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float top = largest[half];
#pragma unroll
      for (int n = 0; n < keys / 8; ++n) top = fmaxf(top, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
      top = fmaxf(top, __shfl_xor_sync(all_lanes, top, 1));  // the four lanes of a row
      top = fmaxf(top, __shfl_xor_sync(all_lanes, top, 2));
      const float shrink = exp2f(largest[half] - top);
      largest[half] = top;
      total[half] *= shrink;
#pragma unroll
      for (int n = 0; n < keys / 8; ++n) {
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; ++i) total[half] += s[n][i] = exp2f(s[n][i] - top);
      }
#pragma unroll
      for (int n = 0; n < head / 8; ++n) {
        sums[n][2 * half] *= shrink;
        sums[n][2 * half + 1] *= shrink;
      }
    }
  }
  __device__ void finish() {
    for (float& sum : total) {
      sum += __shfl_xor_sync(all_lanes, sum, 1);
      sum += __shfl_xor_sync(all_lanes, sum, 2);
    }
  }
};

template <int head>
__global__ __launch_bounds__(attention_threads) void attention_forward_kernel(
    bfloat16* o, float* lse, const bfloat16* q, const bfloat16* k, const bfloat16* v, AttentionShape shape,
    const SequenceTile* tiles) {
  auto* q_tile = reinterpret_cast<bfloat16*>(dynamic_shared_memory());
  bfloat16 *k_tile = q_tile + tile_rows * row_stride<head>, *v_tile = k_tile + tile_rows * row_stride<head>;
  const SequenceTile tile = tiles[blockIdx.x];
  const int h = static_cast<int>(blockIdx.y), warp_row = static_cast<int>(threadIdx.x / 32) * 16;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const std::int64_t q_stride = std::int64_t{shape.heads} * shape.width;
  const std::int64_t kv_stride = std::int64_t{shape.kv_heads} * shape.width;
  const std::int64_t q_at = ((tile.first + tile.row) * shape.heads + h) * shape.width;
  const std::int64_t kv_at = (tile.first * shape.kv_heads + h / (shape.heads / shape.kv_heads)) * shape.width;
  load_tile<head, tile_rows>(q_tile, q + q_at, q_stride, rows_left(tile.length, tile.row, tile_rows),
                             shape.width, shape.packed);
  bfloat16* own_rows = q_tile + warp_row * row_stride<head>;
  float sums[head / 8][4] = {};
  OnlineSoftmax softmax;
  for (int from = 0; from < tile.row + tile_rows && from < tile.length; from += tile_rows) {
    const int left = rows_left(tile.length, from, tile_rows);
    __syncthreads();  // the tiles of the step before have been read
    load_tile<head, tile_rows>(k_tile, k + kv_at + from * kv_stride, kv_stride, left, shape.width,
                               shape.packed);
    load_tile<head, tile_rows>(v_tile, v + kv_at + from * kv_stride, kv_stride, left, shape.width,
                               shape.packed);
    copies_arrived();
    __syncthreads();
    float s[tile_rows / 8][4];
    rows_times_rows<head, tile_rows>(s, own_rows, k_tile);
    const bool diagonal = from + tile_rows > tile.row || from + tile_rows > tile.length;
#pragma unroll
    for (int n = 0; n < tile_rows / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int query = tile.row + warp_row + lane / 4 + i / 2 * 8,
                  key = from + 8 * n + lane % 4 * 2 + i % 2;
        s[n][i] =
            diagonal && (key > query || key >= tile.length) ? -INFINITY : s[n][i] * (shape.scale * log2_e);
      }
    }
    softmax.template update<tile_rows, head>(s, sums);
    rows_times_columns<head, tile_rows>(sums, s, v_tile);
  }
  softmax.finish();
  const int valid = rows_left(tile.length, tile.row + warp_row, 16);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = lane / 4 + 8 * half;
    if (lane % 4 == 0 && row < valid) {
      lse[(tile.first + tile.row + warp_row + row) * shape.heads + h] =
          softmax.largest[half] * ln_2 + logf(softmax.total[half]);
    }
  }
  const float factor[2] = {1.0F / softmax.total[0], 1.0F / softmax.total[1]};
  store_rows<head>(o + q_at + warp_row * q_stride, q_stride, valid, shape.width, shape.packed, sums, factor,
                   own_rows);
}

template <int head>
void run(bfloat16* o, float* lse, const bfloat16* q, const bfloat16* k, const bfloat16* v,
         const AttentionShape& shape, const SequenceTile* tiles, std::int64_t num_tiles, Stream& stream) {
  launch(attention_forward_kernel<head>, dim3(grid_size(num_tiles), static_cast<unsigned>(shape.heads)),
         attention_threads, 3 * tile_bytes<head>(tile_rows), stream, o, lse, q, k, v, shape, tiles);
}

}  // namespace

void attention_forward_tensor_cores(bfloat16* o, float* lse, const bfloat16* q, const bfloat16* k,
                                    const bfloat16* v, const AttentionShape& shape, const SequenceTile* tiles,
                                    std::int64_t num_tiles, Stream& stream) {
  if (shape.width <= 32) return run<32>(o, lse, q, k, v, shape, tiles, num_tiles, stream);
  if (shape.width <= 64) return run<64>(o, lse, q, k, v, shape, tiles, num_tiles, stream);
  run<128>(o, lse, q, k, v, shape, tiles, num_tiles, stream);
}

}  // namespace nmoe::ops::cuda
