// Causal attention backward on the tensor cores. Two kernels, each of which sums in one order and owns what
// it writes, so no atomics: one block per 64 queries and head for dq, one per 64 keys and key/value head for
// dk and dv. Scores are computed again in both (7 products instead of 5; the price of equal bits).
#include "attention_tiles.cuh"
#include "launch.hpp"

namespace nmoe::ops::cuda {

using namespace device;

namespace {

constexpr int query_step = 32;  // queries at a time in the kernel for dk and dv

template <int head>
__global__ __launch_bounds__(attention_threads) void attention_dq_kernel(AttentionGradients<bfloat16> x,
                                                                         AttentionShape shape,
                                                                         const SequenceTile* tiles) {
  constexpr int size = tile_rows * row_stride<head>;
  auto* q_tile = reinterpret_cast<bfloat16*>(dynamic_shared_memory());
  bfloat16 *do_tile = q_tile + size, *k_tile = do_tile + size, *v_tile = k_tile + size;
  const SequenceTile tile = tiles[blockIdx.x];
  const int h = static_cast<int>(blockIdx.y), warp_row = static_cast<int>(threadIdx.x / 32) * 16;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const std::int64_t q_stride = std::int64_t{shape.heads} * shape.width;
  const std::int64_t kv_stride = std::int64_t{shape.kv_heads} * shape.width;
  const std::int64_t q_at = ((tile.first + tile.row) * shape.heads + h) * shape.width;
  const std::int64_t kv_at = (tile.first * shape.kv_heads + h / (shape.heads / shape.kv_heads)) * shape.width;
  const int valid = rows_left(tile.length, tile.row, tile_rows);
  load_tile<head, tile_rows>(q_tile, x.q + q_at, q_stride, valid, shape.width, shape.packed);
  load_tile<head, tile_rows>(do_tile, x.d_o + q_at, q_stride, valid, shape.width, shape.packed);
  float lse[2], delta[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = warp_row + lane / 4 + 8 * half;
    const std::int64_t at = (tile.first + tile.row + row) * shape.heads + h;
    lse[half] = row < valid ? x.lse[at] * log2_e : 0.0F;
    delta[half] = row < valid ? x.delta[at] : 0.0F;
  }
  float sums[head / 8][4] = {};
  for (int from = 0; from < tile.row + tile_rows && from < tile.length; from += tile_rows) {
    const int left = rows_left(tile.length, from, tile_rows);
    __syncthreads();
    load_tile<head, tile_rows>(k_tile, x.k + kv_at + from * kv_stride, kv_stride, left, shape.width,
                               shape.packed);
    load_tile<head, tile_rows>(v_tile, x.v + kv_at + from * kv_stride, kv_stride, left, shape.width,
                               shape.packed);
    copies_arrived();
    __syncthreads();
    float p[tile_rows / 8][4], dp[tile_rows / 8][4];
    rows_times_rows<head, tile_rows>(p, q_tile + warp_row * row_stride<head>, k_tile);
    rows_times_rows<head, tile_rows>(dp, do_tile + warp_row * row_stride<head>, v_tile);
#pragma unroll
    for (int n = 0; n < tile_rows / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int query = tile.row + warp_row + lane / 4 + i / 2 * 8,
                  key = from + 8 * n + lane % 4 * 2 + i % 2;
        const bool seen = key <= query && query < tile.length;
        const float probability = seen ? exp2f(p[n][i] * (shape.scale * log2_e) - lse[i / 2]) : 0.0F;
        p[n][i] = probability * (dp[n][i] - delta[i / 2]) * shape.scale;
      }
    }
    rows_times_columns<head, tile_rows>(sums, p, k_tile);
  }
  const float factor[2] = {1.0F, 1.0F};
  store_rows<head>(x.dq + q_at + warp_row * q_stride, q_stride,
                   rows_left(tile.length, tile.row + warp_row, 16), shape.width, shape.packed, sums, factor,
                   q_tile + warp_row * row_stride<head>);
}

/// Rows of a warp are keys here, columns queries: pᵀ and dsᵀ come out as the left operands that dv and dk
/// need.
template <int head>
__global__ __launch_bounds__(attention_threads) void attention_dk_dv_kernel(AttentionGradients<bfloat16> x,
                                                                            AttentionShape shape,
                                                                            const SequenceTile* tiles) {
  constexpr int key_size = tile_rows * row_stride<head>, query_size = query_step * row_stride<head>;
  __shared__ float lse[query_step], delta[query_step];
  auto* k_tile = reinterpret_cast<bfloat16*>(dynamic_shared_memory());
  bfloat16 *v_tile = k_tile + key_size, *q_tile = v_tile + key_size, *do_tile = q_tile + query_size;
  const SequenceTile tile = tiles[blockIdx.x];
  const int kv_head = static_cast<int>(blockIdx.y), group = shape.heads / shape.kv_heads;
  const int warp_row = static_cast<int>(threadIdx.x / 32) * 16, lane = static_cast<int>(threadIdx.x % 32);
  const std::int64_t q_stride = std::int64_t{shape.heads} * shape.width;
  const std::int64_t kv_stride = std::int64_t{shape.kv_heads} * shape.width;
  const std::int64_t kv_at = ((tile.first + tile.row) * shape.kv_heads + kv_head) * shape.width;
  const int valid = rows_left(tile.length, tile.row, tile_rows);
  load_tile<head, tile_rows>(k_tile, x.k + kv_at, kv_stride, valid, shape.width, shape.packed);
  load_tile<head, tile_rows>(v_tile, x.v + kv_at, kv_stride, valid, shape.width, shape.packed);
  bfloat16 *own_k = k_tile + warp_row * row_stride<head>, *own_v = v_tile + warp_row * row_stride<head>;
  float dk[head / 8][4] = {}, dv[head / 8][4] = {};
  for (int h = kv_head * group; h < (kv_head + 1) * group; ++h) {
    for (int from = tile.row; from < tile.length; from += query_step) {
      const std::int64_t q_at = ((tile.first + from) * shape.heads + h) * shape.width;
      const int left = rows_left(tile.length, from, query_step);
      __syncthreads();
      load_tile<head, query_step>(q_tile, x.q + q_at, q_stride, left, shape.width, shape.packed);
      load_tile<head, query_step>(do_tile, x.d_o + q_at, q_stride, left, shape.width, shape.packed);
      if (static_cast<int>(threadIdx.x) < query_step) {
        const std::int64_t at = (tile.first + from + threadIdx.x) * shape.heads + h;
        const bool inside = static_cast<int>(threadIdx.x) < left;
        lse[threadIdx.x] = inside ? x.lse[at] * log2_e : 0.0F;
        delta[threadIdx.x] = inside ? x.delta[at] : 0.0F;
      }
      copies_arrived();
      __syncthreads();
      float p[query_step / 8][4], ds[query_step / 8][4];
      rows_times_rows<head, query_step>(p, own_k, q_tile);
      rows_times_rows<head, query_step>(ds, own_v, do_tile);
#pragma unroll
      for (int n = 0; n < query_step / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int column = 8 * n + lane % 4 * 2 + i % 2, query = from + column;
          const int key = tile.row + warp_row + lane / 4 + i / 2 * 8;
          const bool seen = key <= query && query < tile.length;
          p[n][i] = seen ? exp2f(p[n][i] * (shape.scale * log2_e) - lse[column]) : 0.0F;
          ds[n][i] = p[n][i] * (ds[n][i] - delta[column]) * shape.scale;
        }
      }
      rows_times_columns<head, query_step>(dv, p, do_tile);
      rows_times_columns<head, query_step>(dk, ds, q_tile);
    }
  }
  const int own_valid = rows_left(tile.length, tile.row + warp_row, 16);
  const float factor[2] = {1.0F, 1.0F};
  store_rows<head>(x.dk + kv_at + warp_row * kv_stride, kv_stride, own_valid, shape.width, shape.packed, dk,
                   factor, own_k);
  store_rows<head>(x.dv + kv_at + warp_row * kv_stride, kv_stride, own_valid, shape.width, shape.packed, dv,
                   factor, own_v);
}

template <int head>
void run(const AttentionGradients<bfloat16>& x, const AttentionShape& shape, const SequenceTile* tiles,
         std::int64_t num_tiles, Stream& stream) {
  launch(attention_dq_kernel<head>, dim3(grid_size(num_tiles), static_cast<unsigned>(shape.heads)),
         attention_threads, 4 * tile_bytes<head>(tile_rows), stream, x, shape, tiles);
  launch(attention_dk_dv_kernel<head>, dim3(grid_size(num_tiles), static_cast<unsigned>(shape.kv_heads)),
         attention_threads, 2 * tile_bytes<head>(tile_rows) + 2 * tile_bytes<head>(query_step), stream, x,
         shape, tiles);
}

}  // namespace

void attention_backward_tensor_cores(const AttentionGradients<bfloat16>& x, const AttentionShape& shape,
                                     const SequenceTile* tiles, std::int64_t num_tiles, Stream& stream) {
  if (shape.width <= 32) return run<32>(x, shape, tiles, num_tiles, stream);
  if (shape.width <= 64) return run<64>(x, shape, tiles, num_tiles, stream);
  run<128>(x, shape, tiles, num_tiles, stream);
}

}  // namespace nmoe::ops::cuda
