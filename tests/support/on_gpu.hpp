#pragma once
// The two sides of a GPU kernel test: tensors on the GPU and the same values in float64 for the plain loops.
// Used by tests/gpu, which runs on a GPU or, compiled against tests/support/cuda_emulation, on the CPU.
#include <utility>
#include <vector>

#include "neuronmoe/tensor/device.hpp"
#include "support/compare.hpp"

namespace nmoe::test {

inline Stream& gpu_stream() {
  static OwnedStream stream(Device::cuda);
  return stream.stream();
}

/// For the plain loops beside it.
inline Stream& cpu_stream() {
  static Stream stream;
  return stream;
}

inline Tensor on_gpu(ConstTensorView host) {
  return copied_to(Device::cuda, host, gpu_stream());
}
inline Tensor on_gpu(const Tensor& host) {
  return on_gpu(host.view());
}
inline Tensor from_gpu(const Tensor& gpu) {
  return copied_to(Device::cpu, gpu.view(), gpu_stream());
}

/// The same values twice: `exact` in float64 on the CPU, `gpu` in the kernel's type.
struct Both {
  Tensor exact, gpu;
};
inline Both both(const Tensor& host) {
  Both result{Tensor(host.shape(), DType::float64), on_gpu(host)};
  ops::cast(result.exact.view(), host.view(), cpu_stream());
  return result;
}
inline Both both(Shape shape, DType dtype, std::uint32_t seed, double scale = 1.0) {
  return both(random_tensor(shape, dtype, seed, scale));
}
/// An output: zeros in float64, NaNs on the GPU, so an element that is not written shows.
inline Both poisoned(Shape shape, DType dtype) {
  Tensor host(shape, dtype);
  std::memset(host.view().raw(), 0xFF, static_cast<std::size_t>(host.view().num_bytes()));
  return {Tensor(shape, DType::float64), on_gpu(host)};
}

/// How far the result of a float32 or bfloat16 kernel may be from the float64 one when inputs are of size 1.
/// Stored as bfloat16 a value is off by at most 2^-9 of itself; twice that leaves room for a float32 error
/// that moves it over a rounding boundary. In float32: `terms` additions of values of size 1, each off by
/// 2^-24 of a partial sum that grows like sqrt(terms), plus a handful of operations (e^x and division within
/// 2 units).
inline Tolerance gpu_tolerance(DType stored, double terms = 1.0) {
  const double unit = 5.96e-8, sum_error = 4.0 * unit * std::max(terms, 4.0);
  return stored == DType::bfloat16 ? Tolerance{sum_error, 0.0039 + 16 * unit}
                                   : Tolerance{sum_error, 16 * unit};
}

inline void check_gpu(const std::string& what, const Both& result, Tolerance tolerance) {
  check_close(what + " " + std::string(name_of(result.gpu.dtype())) + result.gpu.shape().to_string(),
              values(from_gpu(result.gpu).view()), values(result.exact.view()), tolerance);
}

/// True if `body()` gives tensors with the same bits every time.
template <typename Body>
bool repeats_bits(Body&& body) {
  const Tensor first = body();
  for (int i = 0; i < 2; ++i) {
    if (!same_bits(first, body())) return false;
  }
  return true;
}

}  // namespace nmoe::test
