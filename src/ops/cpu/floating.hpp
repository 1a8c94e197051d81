#pragma once
// From run-time dtypes to template parameters, and arithmetic in the accumulator type. Used by all CPU
// kernels.
#include <type_traits>
#include <utility>

#include "neuronmoe/tensor/tensor.hpp"

namespace nmoe::ops::cpu {

/// Type in which sums over T are kept; the compile-time twin of accumulator_of().
template <typename T>
using acc_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <typename T>
inline acc_t<T> to_acc(T value) {
  return static_cast<acc_t<T>>(value);
}

/// Conversion between any two floating types, rounding once and to nearest even.
template <typename To, typename From>
inline To convert(From value) {
  if constexpr (std::is_same_v<To, bfloat16> && std::is_same_v<From, double>) {
    // Through float, but rounding only once: round to odd first, so that the second rounding sees the tail.
    float f = static_cast<float>(value);
    if (static_cast<double>(f) != value && (std::bit_cast<std::uint32_t>(f) & 1U) == 0U) {
      const bool away = (static_cast<double>(f) > value) == (value > 0.0);
      f = std::bit_cast<float>(std::bit_cast<std::uint32_t>(f) + (away ? ~0U : 1U));
    }
    return bfloat16(f);
  } else if constexpr (std::is_same_v<From, bfloat16>) {
    return static_cast<To>(static_cast<float>(value));
  } else {
    return static_cast<To>(value);
  }
}

/// Calls f.operator()<T>() with T = double, float or bfloat16. @pre dtype is floating (dispatchers check).
template <typename F>
void visit_floating(DType dtype, F&& f) {
  switch (dtype) {
    case DType::float64:
      return std::forward<F>(f).template operator()<double>();
    case DType::float32:
      return std::forward<F>(f).template operator()<float>();
    case DType::bfloat16:
      return std::forward<F>(f).template operator()<bfloat16>();
    default:
      NMOE_CHECK(false, internal, "{} is not a floating type", name_of(dtype));
  }
}

/// Like visit_floating for accumulator types: double or float.
template <typename F>
void visit_accumulator(DType dtype, F&& f) {
  if (dtype == DType::float64) return std::forward<F>(f).template operator()<double>();
  return std::forward<F>(f).template operator()<float>();
}

/// Like visit_floating for the types that have fast paths: float and bfloat16.
template <typename F>
void visit_fast(DType dtype, F&& f) {
  if (dtype == DType::float32) return std::forward<F>(f).template operator()<float>();
  return std::forward<F>(f).template operator()<bfloat16>();
}

}  // namespace nmoe::ops::cpu
