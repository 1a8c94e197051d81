// Element types of safetensors and their conversion to ours.
#include <bit>
#include <cmath>
#include <cstring>

#include "neuronmoe/base/error.hpp"
#include "neuronmoe/io/safetensors.hpp"

namespace nmoe::io {
namespace {

struct Half {
  std::uint16_t bits;
};

template <typename T>
T load(const char* p) {
  T value;
  std::memcpy(&value, p, sizeof(T));
  return value;
}

double widen(double x) {
  return x;
}
double widen(float x) {
  return x;
}
double widen(bfloat16 x) {
  return static_cast<float>(x);
}
double widen(Half x) {
  const int exponent = (x.bits >> 10U) & 0x1F;
  const int fraction = x.bits & 0x3FF;
  double magnitude = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
  if (exponent == 31) magnitude = fraction == 0 ? HUGE_VAL : std::nan("");
  return (x.bits & 0x8000U) != 0 ? -magnitude : magnitude;
}

/// Nearest bfloat16 without the double rounding that a detour over float would bring.
bfloat16 narrow(double x) {
  auto f = static_cast<float>(x);
  auto bits = std::bit_cast<std::uint32_t>(f);
  const bool tie = (bits & 0xFFFFU) == 0x8000U;  // float sits half way, x may not
  if (tie && std::isfinite(f) && static_cast<double>(f) != x) {
    const bool away = std::fabs(x) > std::fabs(static_cast<double>(f));
    bits += away ? 1U : -1U;
    f = std::bit_cast<float>(bits);
  }
  return bfloat16(f);
}

template <typename From, typename To>
void convert(const char* bytes, To* out, std::int64_t count) {
  if constexpr (std::is_same_v<From, To>) {
    if (count > 0) std::memcpy(out, bytes, static_cast<std::size_t>(count) * sizeof(To));
  } else {
    for (std::int64_t i = 0; i < count; ++i) {
      const double x = widen(load<From>(bytes + i * static_cast<std::int64_t>(sizeof(From))));
      if constexpr (std::is_same_v<To, bfloat16>)
        out[i] = narrow(x);
      else
        out[i] = static_cast<To>(x);
    }
  }
}

template <typename To>
void convert_to(const char* bytes, const std::string& dtype, To* out, std::int64_t count) {
  if (dtype == "F64")
    convert<double>(bytes, out, count);
  else if (dtype == "F32")
    convert<float>(bytes, out, count);
  else if (dtype == "BF16")
    convert<bfloat16>(bytes, out, count);
  else
    convert<Half>(bytes, out, count);
}

}  // namespace

std::int64_t safetensors_element_bytes(const std::string& dtype) {
  if (dtype == "F64") return 8;
  if (dtype == "F32") return 4;
  return dtype == "BF16" || dtype == "F16" ? 2 : 0;
}

std::string safetensors_dtype(DType dtype, const std::string& tensor) {
  NMOE_CHECK(dtype == DType::float64 || dtype == DType::float32 || dtype == DType::bfloat16, internal,
             "tensor {} of {} cannot be written as safetensors", tensor, name_of(dtype));
  return dtype == DType::float64 ? "F64" : dtype == DType::float32 ? "F32" : "BF16";
}

void safetensors_convert(const char* bytes, const std::string& dtype, TensorView out) {
  const std::int64_t count = out.num_elements();
  switch (out.dtype()) {
    case DType::float64:
      return convert_to(bytes, dtype, out.data<double>(), count);
    case DType::float32:
      return convert_to(bytes, dtype, out.data<float>(), count);
    case DType::bfloat16:
      return convert_to(bytes, dtype, out.data<bfloat16>(), count);
    default:
      NMOE_CHECK(false, internal, "weights cannot be read into {}", name_of(out.dtype()));
  }
}

}  // namespace nmoe::io
