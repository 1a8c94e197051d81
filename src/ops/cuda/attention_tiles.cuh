#pragma once
// What the attention kernels share: how sequences are cut into tiles, tiles in shared memory, and the two
// products of a warp's 16 rows with a tile (rows times rows, and rows times columns) on the tensor cores.
#include "device/elements.cuh"
#include "neuronmoe/ops/backends.hpp"

namespace nmoe::ops::cuda {

/// 64 consecutive tokens of one sequence: rows [row, row + 64) ∩ [0, length) of the sequence that starts at
/// token `first`.
struct SequenceTile {
  std::int64_t first;
  std::int32_t length, row;
};
/// The same of a sequence behind a prefix.
struct PrefixedTile {
  PrefixedSequence sequence;
  std::int64_t row;
};
inline constexpr int tile_rows = 64;
inline constexpr int attention_threads = 128;  // four warps, 16 rows each

struct AttentionShape {
  int heads, kv_heads, width;
  float scale;
  bool packed;  ///< every row of a head starts on a 16-byte boundary and is a multiple of 16 bytes long
};

/// Arguments of the backward kernels. `delta` [T, H] = Σ d_o · o.
template <typename T>
struct AttentionGradients {
  T *dq, *dk, *dv;
  const T *d_o, *q, *k, *v;
  const float *lse, *delta;
};

void attention_forward_tensor_cores(bfloat16* o, float* lse, const bfloat16* q, const bfloat16* k,
                                    const bfloat16* v, const AttentionShape& shape, const SequenceTile* tiles,
                                    std::int64_t num_tiles, Stream& stream);
void attention_backward_tensor_cores(const AttentionGradients<bfloat16>& gradients,
                                     const AttentionShape& shape, const SequenceTile* tiles,
                                     std::int64_t num_tiles, Stream& stream);
template <typename T>
void attention_forward_plain(T* o, float* lse, const T* q, const T* k, const T* v,
                             const AttentionShape& shape, const SequenceTile* tiles, std::int64_t num_tiles,
                             Stream& stream);
template <typename T>
void attention_prefixed_plain(T* o, const T* q, const T* k, const T* v, const AttentionShape& shape,
                              const PrefixedTile* tiles, std::int64_t num_tiles, Stream& stream);
template <typename T>
void attention_backward_plain(const AttentionGradients<T>& gradients, const AttentionShape& shape,
                              const SequenceTile* tiles, std::int64_t num_tiles, Stream& stream);

inline constexpr float log2_e = 1.44269504088896341F, ln_2 = 0.693147180559945309F;

/// Rows of a tile are `head` wide (a multiple of 16, the rest zeros) and 16 bytes apart from a multiple of
/// 128, so that the eight rows of a matrix load lie in different banks.
template <int head>
inline constexpr int row_stride = head + 8;
template <int head>
inline constexpr int tile_bytes(int rows) {
  return rows * row_stride<head> * 2;
}

/// Starts to bring `valid` rows of `width` elements, `stride` apart, into a tile of `rows` rows; the rest is
/// zero.
template <int head, int rows>
__device__ inline void load_tile(bfloat16* tile, const bfloat16* from, std::int64_t stride, int valid,
                                 int width, bool packed) {
  constexpr int per_row = head / 8;
  for (int i = static_cast<int>(threadIdx.x); i < rows * per_row; i += attention_threads) {
    const int row = i / per_row, column = i % per_row * 8;
    bfloat16* to = tile + row * row_stride<head> + column;
    const bfloat16* source = from + row * stride + column;
    if (packed && row < valid && column < width) {
      device::start_copy_16(to, source);
      continue;
    }
    device::Pack<bfloat16, 8> pack;
    for (int j = 0; j < 8; ++j) {
      pack.values[j].bits = row < valid && column + j < width ? source[j].bits : std::uint16_t{0};
    }
    device::store_pack<8>(to, pack);
  }
}

/// Writes the `valid` first of 16 rows, held as accumulators of one warp, through that warp's own rows of a
/// tile.
template <int head>
__device__ inline void store_rows(bfloat16* to, std::int64_t stride, int valid, int width, bool packed,
                                  const float (&values)[head / 8][4], const float (&factor)[2],
                                  bfloat16* own_rows) {
  const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
  for (int n = 0; n < head / 8; ++n) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      bfloat16* at = own_rows + (lane / 4 + 8 * half) * row_stride<head> + 8 * n + lane % 4 * 2;
      *reinterpret_cast<std::uint32_t*>(at) = device::bfloat16_pair_bits(
          values[n][2 * half] * factor[half], values[n][2 * half + 1] * factor[half]);
    }
  }
  __syncwarp();
  constexpr int per_row = head / 8;
  for (int i = lane; i < 16 * per_row; i += 32) {
    const int row = i / per_row, column = i % per_row * 8;
    if (row >= valid) continue;
    const bfloat16* at = own_rows + row * row_stride<head> + column;
    if (packed && column < width) {
      device::store_pack<8>(to + row * stride + column, device::load_pack<8>(at));
    } else {
      for (int j = 0; j < 8 && column + j < width; ++j) to[row * stride + column + j] = at[j];
    }
  }
}

/// c[n] = a·bᵀ for the warp's 16 rows of `a` and rows 8n..8n+7 of `b`; both tiles have rows of `head`
/// elements.
template <int head, int b_rows>
__device__ inline void rows_times_rows(float (&c)[b_rows / 8][4], const bfloat16* a, const bfloat16* b) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const bfloat16* a_row = a + lane % 16 * row_stride<head> + lane / 16 * 8;
  const bfloat16* b_row = b + (lane / 16 * 8 + lane % 8) * row_stride<head> + lane / 8 % 2 * 8;
#pragma unroll
  for (int n = 0; n < b_rows / 8; ++n) {
#pragma unroll
    for (float& value : c[n]) value = 0.0F;
  }
#pragma unroll
  for (int k = 0; k < head; k += 16) {
    std::uint32_t fa[4];
    device::load_matrices<false>(fa, a_row + k);
#pragma unroll
    for (int n = 0; n < b_rows / 8; n += 2) {
      std::uint32_t fb[4];
      device::load_matrices<false>(fb, b_row + n * 8 * row_stride<head> + k);
      device::multiply_accumulate(c[n], fa, fb[0], fb[1]);
      device::multiply_accumulate(c[n + 1], fa, fb[2], fb[3]);
    }
  }
}

/// c[n] += p·b for the warp's 16 rows of `p`, held as accumulators and rounded to bfloat16, and columns
/// 8n..8n+7 of the tile `b` with `b_rows` rows.
template <int head, int b_rows>
__device__ inline void rows_times_columns(float (&c)[head / 8][4], const float (&p)[b_rows / 8][4],
                                          const bfloat16* b) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const bfloat16* b_row = b + lane % 16 * row_stride<head> + lane / 16 * 8;
#pragma unroll
  for (int k = 0; k < b_rows / 16; ++k) {
    const std::uint32_t fa[4] = {device::bfloat16_pair_bits(p[2 * k][0], p[2 * k][1]),
                                 device::bfloat16_pair_bits(p[2 * k][2], p[2 * k][3]),
                                 device::bfloat16_pair_bits(p[2 * k + 1][0], p[2 * k + 1][1]),
                                 device::bfloat16_pair_bits(p[2 * k + 1][2], p[2 * k + 1][3])};
#pragma unroll
    for (int n = 0; n < head / 8; n += 2) {
      std::uint32_t fb[4];
      device::load_matrices<true>(fb, b_row + k * 16 * row_stride<head> + n * 8);
      device::multiply_accumulate(c[n], fa, fb[0], fb[1]);
      device::multiply_accumulate(c[n + 1], fa, fb[2], fb[3]);
    }
  }
}

/// Rows a tile of `rows` rows starting at `first` still has in a sequence of `length`.
__device__ inline int rows_left(int length, int first, int rows) {
  const int left = length - first;
  return left < 0 ? 0 : left < rows ? left : rows;
}

}  // namespace nmoe::ops::cuda
