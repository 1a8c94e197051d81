#pragma once
// Sixteen float lanes with explicit accumulation order: what fast CPU kernels are written in. The compiler's
// vector types (gcc, clang; any architecture) are used instead of intrinsics, and instead of trusting the
// auto-vectoriser, which may not reorder float sums without -ffast-math. The lane count is part of the result
// (sums run over lanes first), so it is the same on every machine.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "floating.hpp"

// Machines without 512-bit registers split these vectors; compilers then warn that such types cross function
// boundaries differently from machine to machine. Ours never leave one translation unit.
#pragma GCC diagnostic ignored "-Wpsabi"

namespace nmoe::ops::cpu {

inline constexpr std::int64_t num_lanes = 16;
using Lanes [[gnu::vector_size(64)]] = float;
using LanesInt [[gnu::vector_size(64)]] = std::int32_t;
using LanesUint [[gnu::vector_size(64)]] = std::uint32_t;
using LanesHalf [[gnu::vector_size(32)]] = std::uint16_t;

inline Lanes splat(float value) {
  return Lanes{} + value;
}

inline Lanes load(const float* p) {
  Lanes x;
  std::memcpy(&x, p, sizeof(x));
  return x;
}
inline Lanes load(const bfloat16* p) {
  LanesHalf half;
  std::memcpy(&half, p, sizeof(half));
  return (Lanes)(__builtin_convertvector(half, LanesUint) << 16);
}
inline void store(float* p, Lanes x) {
  std::memcpy(p, &x, sizeof(x));
}
/// Rounds to nearest even; the same bits as bfloat16(float).
inline void store(bfloat16* p, Lanes x) {
  const auto u = (LanesUint)x;
  const LanesUint rounded = (u + 0x7FFFU + ((u >> 16) & 1U)) >> 16;
  const LanesUint quiet = (u >> 16) | 0x40U;
  const auto is_nan = (LanesUint)((u & 0x7FFFFFFFU) > 0x7F800000U);
  const LanesHalf half = __builtin_convertvector((quiet & is_nan) | (rounded & ~is_nan), LanesHalf);
  std::memcpy(static_cast<void*>(p), &half, sizeof(half));
}
/// The first `n` < 16 elements; the other lanes are `rest`.
template <typename T>
inline Lanes load_part(const T* p, std::int64_t n, float rest = 0.0F) {
  float buffer[num_lanes];
  for (std::int64_t i = 0; i < num_lanes; ++i) buffer[i] = i < n ? static_cast<float>(p[i]) : rest;
  return load(buffer);
}
template <typename T>
inline void store_part(T* p, Lanes x, std::int64_t n) {
  T buffer[num_lanes];
  store(buffer, x);
  for (std::int64_t i = 0; i < n; ++i) p[i] = buffer[i];
}

/// mask ? a : b, with all-ones or all-zeros lanes in `mask`.
inline Lanes select(LanesInt mask, Lanes a, Lanes b) {
  return mask ? a : b;
}
inline Lanes maximum(Lanes a, Lanes b) {
  return a > b ? a : b;
}

inline Lanes square_root(Lanes x) {
  float v[num_lanes];
  store(v, x);
  for (float& value : v) value = std::sqrt(value);
  return load(v);
}

/// Folds the upper half onto the lower half until one lane is left: always the same tree.
template <typename Op>
inline float fold(Lanes x, Op&& op) {
  using Eight [[gnu::vector_size(32)]] = float;
  using Four [[gnu::vector_size(16)]] = float;
  const Eight a = op(Eight(__builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7)),
                     Eight(__builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15)));
  const Four b =
      op(Four(__builtin_shufflevector(a, a, 0, 1, 2, 3)), Four(__builtin_shufflevector(a, a, 4, 5, 6, 7)));
  const Four c = op(b, Four(__builtin_shufflevector(b, b, 2, 3, 0, 1)));
  const Four d = op(c, Four(__builtin_shufflevector(c, c, 1, 0, 3, 2)));
  return d[0];
}
inline float sum(Lanes x) {
  return fold(x, [](auto a, auto b) { return a + b; });
}
inline float maximum(Lanes x) {
  return fold(x, [](auto a, auto b) { return a > b ? a : b; });
}

/// e^x, relative error below 2e-7 (tested); 0 below -87.3, inf above 88.37 (where 2^n stops fitting), NaN
/// stays NaN. Cody-Waite reduction x = n·ln 2 + r, |r| <= ln 2 / 2, and a polynomial for e^r.
inline Lanes exp(Lanes x) {
  // Adding 1.5 · 2^23 rounds to an integer; the 127 more leave n + 127, the exponent field of 2^n, in the low
  // bits.
  constexpr float log2_e = 1.44269504088896341F, ln2_high = 0.693145751953125F,
                  ln2_low = 1.42860682030941723e-6F, round_to_int = 12582912.0F + 127.0F;
  const Lanes shifted = x * log2_e + round_to_int;
  const Lanes n = shifted - round_to_int;
  const Lanes r = (x - n * ln2_high) - n * ln2_low;
  Lanes poly = splat(1.0F / 5040.0F);
  poly = poly * r + 1.0F / 720.0F;
  poly = poly * r + 1.0F / 120.0F;
  poly = poly * r + 1.0F / 24.0F;
  poly = poly * r + 1.0F / 6.0F;
  poly = poly * r + 0.5F;
  poly = poly * r * r + r + 1.0F;
  const Lanes y = poly * (Lanes)((LanesInt)shifted << 23);
  return select(x > 88.37F, splat(std::numeric_limits<float>::infinity()), select(x < -87.3F, Lanes{}, y));
}

/// Calls f(i, n) for i = 0, 16, ... with n = 16, and once with the rest if `count` is not a multiple of 16.
/// Inside, load_n/store_n below turn into whole-vector accesses when n is the constant 16.
template <typename F>
inline void for_lanes(std::int64_t count, F&& f) {
  std::int64_t i = 0;
  for (; i + num_lanes <= count; i += num_lanes) f(i, std::integral_constant<std::int64_t, num_lanes>{});
  if (i < count) f(i, count - i);
}
template <typename T, typename N>
inline Lanes load_n(const T* p, N n, float rest = 0.0F) {
  if constexpr (std::is_same_v<N, std::int64_t>) {
    return load_part(p, n, rest);
  } else {
    return load(p);
  }
}
template <typename T, typename N>
inline void store_n(T* p, Lanes x, N n) {
  if constexpr (std::is_same_v<N, std::int64_t>) {
    store_part(p, x, n);
  } else {
    store(p, x);
  }
}

}  // namespace nmoe::ops::cpu
