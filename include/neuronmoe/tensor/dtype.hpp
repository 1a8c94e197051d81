#pragma once
// Element types and devices of tensors.
#include <bit>
#include <cstdint>

#include "neuronmoe/base/enum_names.hpp"

namespace nmoe {

enum class DType : std::uint8_t { float64, float32, bfloat16, int32, int64, uint8 };
constexpr auto enum_names(DType) {
  // Named: the front end of nvcc 12 evaluates no std::to_array of a temporary one.
  constexpr EnumName<DType> rows[] = {{DType::float64, "float64"},   {DType::float32, "float32"},
                                      {DType::bfloat16, "bfloat16"}, {DType::int32, "int32"},
                                      {DType::int64, "int64"},       {DType::uint8, "uint8"}};
  return std::to_array(rows);
}
/// What a config may ask for as type of weights, activations or gradients on their way.
inline constexpr auto weight_dtypes = names_among<DType::float32, DType::bfloat16>;

enum class Device : std::uint8_t { cpu, cuda };
constexpr auto enum_names(Device) {
  return std::to_array<EnumName<Device>>({{Device::cpu, "cpu"}, {Device::cuda, "cuda"}});
}

/// bfloat16 in host memory: conversion from float rounds to nearest even; NaN stays NaN.
struct bfloat16 {
  std::uint16_t bits = 0;
  bfloat16() = default;
  explicit bfloat16(float value) {
    const auto u = std::bit_cast<std::uint32_t>(value);
    const std::uint32_t rounded = u + 0x7FFFU + ((u >> 16) & 1U);
    bits = static_cast<std::uint16_t>((u & 0x7FFFFFFFU) > 0x7F800000U ? (u >> 16) | 0x40U : rounded >> 16);
  }
  explicit operator float() const { return std::bit_cast<float>(std::uint32_t{bits} << 16); }
};

constexpr std::int64_t size_of(DType dtype) {
  switch (dtype) {
    case DType::float64:
    case DType::int64:
      return 8;
    case DType::float32:
    case DType::int32:
      return 4;
    case DType::bfloat16:
      return 2;
    case DType::uint8:
      return 1;
  }
  return 0;
}
/// Returns the type in which sums over elements of `dtype` are kept: float64 for float64, else float32.
constexpr DType accumulator_of(DType dtype) {
  return dtype == DType::float64 ? DType::float64 : DType::float32;
}

template <typename T>
struct dtype_of;
template <>
struct dtype_of<double> {
  static constexpr DType value = DType::float64;
};
template <>
struct dtype_of<float> {
  static constexpr DType value = DType::float32;
};
template <>
struct dtype_of<bfloat16> {
  static constexpr DType value = DType::bfloat16;
};
template <>
struct dtype_of<std::int32_t> {
  static constexpr DType value = DType::int32;
};
template <>
struct dtype_of<std::int64_t> {
  static constexpr DType value = DType::int64;
};
template <>
struct dtype_of<std::uint8_t> {
  static constexpr DType value = DType::uint8;
};

}  // namespace nmoe
