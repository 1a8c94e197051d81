#pragma once
// Random tensors, comparison of tensors, and the one table of tolerances of the kernel tests. Used by
// tests/unit/test_ops_*.cpp.
#include <omp.h>

#include <boost/test/unit_test.hpp>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "neuronmoe/base/philox.hpp"
#include "neuronmoe/ops/transformer.hpp"

namespace nmoe::test {

/// |got − reference| <= absolute + relative · |reference|.
struct Tolerance {
  double absolute, relative;
};

/// What a kernel does to its rounding errors.
enum class Kind {
  golden,       ///< numbers computed in exact or double arithmetic, float64 kernel
  elementwise,  ///< a few operations per element
  sum           ///< sums of up to ~1000 terms of size 1, taken in another order
};

/// The table. float32 eps is 6e-8, bfloat16 eps 3.9e-3; inputs are of size 1.
inline Tolerance tolerance(Kind kind, DType dtype) {
  switch (kind) {
    case Kind::golden:
      return {1e-15, 4e-15};  // printed with 17 digits; a handful of float64 roundings
    case Kind::elementwise:
      // float32: our e^x is within 2e-7, and up to ten operations follow. bfloat16: both sides compute in
      // float32 and round once; where they straddle a boundary they differ by one unit, 2^-7 of the value.
      return dtype == DType::bfloat16 ? Tolerance{1e-6, 0.0079} : Tolerance{1e-6, 3e-6};
    case Kind::sum:
      // 1000 terms: the error grows like eps · sqrt(1000) · |partial sum| ~ 6e-8 · 32 · 32 = 6e-5 at worst
      // where the terms cancel. bfloat16: the same in float32, then one rounding as above.
      return dtype == DType::bfloat16 ? Tolerance{1e-4, 0.0079} : Tolerance{1e-4, 1e-5};
  }
  return {0, 0};
}

inline const std::vector<DType> fast_dtypes = {DType::float32, DType::bfloat16};

/// All elements as double.
inline std::vector<double> values(ConstTensorView x) {
  Stream stream;
  Tensor copy(x.shape(), DType::float64);
  if (x.dtype() == DType::int32) {
    const auto* p = x.data<std::int32_t>();
    return {p, p + x.num_elements()};
  }
  ops::cast(copy.view(), x, stream);
  return {copy.data<double>(), copy.data<double>() + x.num_elements()};
}

/// Normal numbers times `scale`, a pure function of the seed.
inline Tensor random_tensor(Shape shape, DType dtype, std::uint32_t seed, double scale = 1.0) {
  const Philox random(20240229, RandomPurpose::test, seed);
  Stream stream;
  Tensor exact(shape, DType::float64), out(shape, dtype);
  for (std::int64_t i = 0; i < exact.num_elements(); ++i) {
    exact.data<double>()[i] = scale * random.normal(static_cast<std::uint64_t>(i));
  }
  ops::cast(out.view(), exact.view(), stream);
  return out;
}

/// Integers in [0, bound).
inline Tensor random_ids(Shape shape, std::int64_t bound, std::uint32_t seed) {
  const Philox random(20240229, RandomPurpose::test, seed);
  Tensor out(shape, DType::int32);
  for (std::int64_t i = 0; i < out.num_elements(); ++i) {
    out.data<std::int32_t>()[i] = static_cast<std::int32_t>(
        random.below(static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(bound)));
  }
  return out;
}

inline Tensor copy_of(const Tensor& x) {
  Tensor copy(x.shape(), x.dtype());
  std::memcpy(copy.view().raw(), x.view().raw(), static_cast<std::size_t>(x.view().num_bytes()));
  return copy;
}

inline bool same_bits(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && a.dtype() == b.dtype() &&
         std::memcmp(a.view().raw(), b.view().raw(), static_cast<std::size_t>(a.view().num_bytes())) == 0;
}

/// Fails the test, naming the worst element, unless every element is within the tolerance. NaN equals NaN
/// only.
inline void check_close(const std::string& what, const std::vector<double>& got,
                        const std::vector<double>& reference, Tolerance tolerance) {
  BOOST_REQUIRE_EQUAL(got.size(), reference.size());
  if (got.empty()) return;
  double worst = 0;
  std::size_t at = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const bool both_nan = std::isnan(got[i]) && std::isnan(reference[i]);
    const double excess = both_nan || got[i] == reference[i]
                              ? 0.0
                              : std::abs(got[i] - reference[i]) /
                                    (tolerance.absolute + tolerance.relative * std::abs(reference[i]));
    if (!(excess <= worst)) {
      worst = std::isnan(excess) ? HUGE_VAL : excess;
      at = i;
    }
  }
  BOOST_CHECK_MESSAGE(worst <= 1.0, what << "[" << at << "]: " << got[at] << ", expected " << reference[at]
                                         << ": " << worst << " times the tolerance");
}
inline void check_close(const std::string& what, const Tensor& got, const Tensor& reference, Kind kind) {
  check_close(what + " " + std::string(name_of(got.dtype())) + got.shape().to_string(), values(got.view()),
              values(reference.view()), tolerance(kind, got.dtype()));
}

/// Runs `body` on one and on two threads and requires the same bits in the tensors it returns.
template <typename Body>
void check_thread_invariant(const std::string& what, Body&& body) {
  const int before = omp_get_max_threads();
  omp_set_num_threads(1);
  const std::vector<Tensor> one = body();
  for (const int threads : {2, 3}) {
    omp_set_num_threads(threads);
    const std::vector<Tensor> more = body();
    for (std::size_t i = 0; i < one.size(); ++i) {
      BOOST_CHECK_MESSAGE(same_bits(one[i], more[i]), what << ": result " << i << " depends on threads");
    }
  }
  omp_set_num_threads(before);
}

}  // namespace nmoe::test
