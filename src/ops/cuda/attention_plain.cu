// Causal attention without tensor cores, for float32, for heads wider than 128 and behind prefixes: a warp
// per query (or key), lanes over 32 keys (or queries) for the products and over the head's elements for the
// sums.
#include "attention_tiles.cuh"
#include "launch.hpp"

namespace nmoe::ops::cuda {

using namespace device;

namespace {

constexpr int most_width = 256, per_lane = most_width / 32, warps = attention_threads / 32;

template <typename T>
__device__ float dot(const T* a, const T* b, int width) {
  float sum = 0.0F;
  for (int i = 0; i < width; ++i) sum += to_float(a[i]) * to_float(b[i]);
  return sum;
}

/// sums[i] += factor of lane l · rows[l][element] for 32 rows, `stride` apart; the lane's elements are lane +
/// 32 i.
template <typename T>
__device__ void add_rows(float (&sums)[per_lane], float factor, const T* rows, std::int64_t stride, int count,
                         int width) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  for (int row = 0; row < 32; ++row) {
    const float of_row = __shfl_sync(all_lanes, factor, row);
    if (row >= count) continue;
#pragma unroll
    for (int i = 0; i < per_lane; ++i) {
      if (lane + 32 * i < width) sums[i] += of_row * to_float(rows[row * stride + lane + 32 * i]);
    }
  }
}

template <typename T>
__device__ void store_sums(T* to, const float (&sums)[per_lane], float factor, int width) {
#pragma unroll
  for (int i = 0; i < per_lane; ++i) {
    const int at = static_cast<int>(threadIdx.x % 32) + 32 * i;
    if (at < width) to[at] = from_float<T>(sums[i] * factor);
  }
}

/// The softmax of one query over the keys so far: Σ p·v of the lane's elements, the largest score and Σ p.
struct Attended {
  float sums[per_lane] = {}, largest = -INFINITY, total = 0.0F;
};

/// Adds `count` keys and values, `stride` apart.
template <typename T>
__device__ void attend(Attended& done, const T* q, const T* k, const T* v, std::int64_t stride, int count,
                       const AttentionShape& shape) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  for (int from = 0; from < count; from += 32) {
    const int key = from + lane;
    const float score = key < count ? dot(q, k + key * stride, shape.width) * shape.scale : -INFINITY;
    const float top = fmaxf(done.largest, fold_warp(score, Maximum{}));
    const float shrink = expf(done.largest - top), p = expf(score - top);
    done.largest = top;
    done.total = done.total * shrink + fold_warp(p);
#pragma unroll
    for (float& sum : done.sums) sum *= shrink;
    add_rows(done.sums, p, v + from * stride, stride, count - from, shape.width);
  }
}

template <typename T>
__global__ __launch_bounds__(attention_threads) void plain_forward_kernel(T* o, float* lse, const T* q,
                                                                          const T* k, const T* v,
                                                                          AttentionShape shape,
                                                                          const SequenceTile* tiles) {
  const SequenceTile tile = tiles[blockIdx.x];
  const int h = static_cast<int>(blockIdx.y), lane = static_cast<int>(threadIdx.x % 32);
  const std::int64_t stride = std::int64_t{shape.kv_heads} * shape.width;
  const std::int64_t kv_at = (tile.first * shape.kv_heads + h / (shape.heads / shape.kv_heads)) * shape.width;
  for (int query = tile.row + static_cast<int>(threadIdx.x / 32);
       query < tile.row + tile_rows && query < tile.length; query += warps) {
    const std::int64_t at = (tile.first + query) * shape.heads + h;
    Attended done;
    attend(done, q + at * shape.width, k + kv_at, v + kv_at, stride, query + 1, shape);
    if (lane == 0) lse[at] = done.largest + logf(done.total);
    store_sums(o + at * shape.width, done.sums, 1.0F / done.total, shape.width);
  }
}

template <typename T>
__global__ __launch_bounds__(attention_threads) void prefixed_forward_kernel(T* o, const T* q, const T* k,
                                                                             const T* v, AttentionShape shape,
                                                                             const PrefixedTile* tiles) {
  const PrefixedTile tile = tiles[blockIdx.x];
  const PrefixedSequence& rows = tile.sequence;
  const int h = static_cast<int>(blockIdx.y);
  const std::int64_t stride = std::int64_t{shape.kv_heads} * shape.width,
                     head_at = std::int64_t{h / (shape.heads / shape.kv_heads)} * shape.width;
  const std::int64_t prefix = rows.prefix * stride + head_at, own = rows.own * stride + head_at;
  for (std::int64_t query = tile.row + threadIdx.x / 32; query < tile.row + tile_rows && query < rows.length;
       query += warps) {
    const std::int64_t at = ((rows.first + query) * shape.heads + h) * shape.width;
    Attended done;
    attend(done, q + at, k + prefix, v + prefix, stride, static_cast<int>(rows.prefix_length), shape);
    attend(done, q + at, k + own, v + own, stride, static_cast<int>(query + 1), shape);
    store_sums(o + at, done.sums, 1.0F / done.total, shape.width);
  }
}

template <typename T>
__global__ __launch_bounds__(attention_threads) void plain_dq_kernel(AttentionGradients<T> x,
                                                                     AttentionShape shape,
                                                                     const SequenceTile* tiles) {
  const SequenceTile tile = tiles[blockIdx.x];
  const int h = static_cast<int>(blockIdx.y), lane = static_cast<int>(threadIdx.x % 32), width = shape.width;
  const std::int64_t stride = std::int64_t{shape.kv_heads} * width;
  const std::int64_t kv_at = (tile.first * shape.kv_heads + h / (shape.heads / shape.kv_heads)) * width;
  for (int query = tile.row + static_cast<int>(threadIdx.x / 32);
       query < tile.row + tile_rows && query < tile.length; query += warps) {
    const std::int64_t at = (tile.first + query) * shape.heads + h;
    float sums[per_lane] = {};
    for (int from = 0; from <= query; from += 32) {
      const int key = from + lane;
      float ds = 0.0F;
      if (key <= query) {
        const std::int64_t row = kv_at + key * stride;
        const float p = expf(dot(x.q + at * width, x.k + row, width) * shape.scale - x.lse[at]);
        ds = p * (dot(x.d_o + at * width, x.v + row, width) - x.delta[at]) * shape.scale;
      }
      add_rows(sums, ds, x.k + kv_at + from * stride, stride, query + 1 - from, width);
    }
    store_sums(x.dq + at * width, sums, 1.0F, width);
  }
}

template <typename T>
__global__ __launch_bounds__(attention_threads) void plain_dk_dv_kernel(AttentionGradients<T> x,
                                                                        AttentionShape shape,
                                                                        const SequenceTile* tiles) {
  const SequenceTile tile = tiles[blockIdx.x];
  const int kv_head = static_cast<int>(blockIdx.y), lane = static_cast<int>(threadIdx.x % 32),
            width = shape.width;
  const int group = shape.heads / shape.kv_heads;
  const std::int64_t stride = std::int64_t{shape.heads} * width;
  for (int key = tile.row + static_cast<int>(threadIdx.x / 32);
       key < tile.row + tile_rows && key < tile.length; key += warps) {
    const std::int64_t kv_at = ((tile.first + key) * shape.kv_heads + kv_head) * width;
    float dk[per_lane] = {}, dv[per_lane] = {};
    for (int h = kv_head * group; h < (kv_head + 1) * group; ++h) {
      const std::int64_t head_at = (tile.first * shape.heads + h) * width;
      for (int from = key; from < tile.length; from += 32) {
        const int query = from + lane;
        float p = 0.0F, ds = 0.0F;
        if (query < tile.length) {
          const std::int64_t at = (tile.first + query) * shape.heads + h, row = head_at + query * stride;
          p = expf(dot(x.q + row, x.k + kv_at, width) * shape.scale - x.lse[at]);
          ds = p * (dot(x.d_o + row, x.v + kv_at, width) - x.delta[at]) * shape.scale;
        }
        add_rows(dv, p, x.d_o + head_at + from * stride, stride, tile.length - from, width);
        add_rows(dk, ds, x.q + head_at + from * stride, stride, tile.length - from, width);
      }
    }
    store_sums(x.dk + kv_at, dk, 1.0F, width);
    store_sums(x.dv + kv_at, dv, 1.0F, width);
  }
}

void check_width(const AttentionShape& shape) {
  NMOE_CHECK(shape.width <= most_width, config,
             "attention: heads of {} elements; the CUDA kernels take up to {}", shape.width, most_width);
}

}  // namespace

template <typename T>
void attention_forward_plain(T* o, float* lse, const T* q, const T* k, const T* v,
                             const AttentionShape& shape, const SequenceTile* tiles, std::int64_t num_tiles,
                             Stream& stream) {
  check_width(shape);
  launch(plain_forward_kernel<T>, dim3(grid_size(num_tiles), static_cast<unsigned>(shape.heads)),
         attention_threads, 0, stream, o, lse, q, k, v, shape, tiles);
}

template <typename T>
void attention_prefixed_plain(T* o, const T* q, const T* k, const T* v, const AttentionShape& shape,
                              const PrefixedTile* tiles, std::int64_t num_tiles, Stream& stream) {
  check_width(shape);
  launch(prefixed_forward_kernel<T>, dim3(grid_size(num_tiles), static_cast<unsigned>(shape.heads)),
         attention_threads, 0, stream, o, q, k, v, shape, tiles);
}

template <typename T>
void attention_backward_plain(const AttentionGradients<T>& x, const AttentionShape& shape,
                              const SequenceTile* tiles, std::int64_t num_tiles, Stream& stream) {
  check_width(shape);
  launch(plain_dq_kernel<T>, dim3(grid_size(num_tiles), static_cast<unsigned>(shape.heads)),
         attention_threads, 0, stream, x, shape, tiles);
  launch(plain_dk_dv_kernel<T>, dim3(grid_size(num_tiles), static_cast<unsigned>(shape.kv_heads)),
         attention_threads, 0, stream, x, shape, tiles);
}

template void attention_forward_plain(float*, float*, const float*, const float*, const float*,
                                      const AttentionShape&, const SequenceTile*, std::int64_t, Stream&);
template void attention_forward_plain(bfloat16*, float*, const bfloat16*, const bfloat16*, const bfloat16*,
                                      const AttentionShape&, const SequenceTile*, std::int64_t, Stream&);
template void attention_prefixed_plain(float*, const float*, const float*, const float*,
                                       const AttentionShape&, const PrefixedTile*, std::int64_t, Stream&);
template void attention_prefixed_plain(bfloat16*, const bfloat16*, const bfloat16*, const bfloat16*,
                                       const AttentionShape&, const PrefixedTile*, std::int64_t, Stream&);
template void attention_backward_plain(const AttentionGradients<float>&, const AttentionShape&,
                                       const SequenceTile*, std::int64_t, Stream&);
template void attention_backward_plain(const AttentionGradients<bfloat16>&, const AttentionShape&,
                                       const SequenceTile*, std::int64_t, Stream&);

}  // namespace nmoe::ops::cuda
