#pragma once
// Central differences in float64 against the backward kernels.
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <functional>
#include <string>

#include "neuronmoe/tensor/tensor.hpp"

namespace nmoe::test {

/// Σ c·y: a scalar loss whose gradient in y is c.
inline double weighted_sum(const Tensor& c, const Tensor& y) {
  double total = 0;
  for (std::int64_t i = 0; i < y.num_elements(); ++i) total += c.data<double>()[i] * y.data<double>()[i];
  return total;
}

/// Norm of (numerical − analytic) relative to the norm of the numerical gradient, with `x` perturbed in
/// place.
///
/// Step: the error of (f(x+h) − f(x−h)) / 2h is h²/6·f''' + eps·|f|/h, smallest near h = eps^(1/3) = 6e-6
/// where both parts are about 2e-11 for a loss and derivatives of size 1 to 10. The bound of 1e-6 leaves room
/// for third derivatives of 1e4, and every wrong factor or sign is far above it.
inline double gradient_error(const std::function<double()>& loss, Tensor& x, const Tensor& analytic) {
  constexpr double step = 6.055454e-06;  // cbrt(2^-52)
  double difference = 0, norm = 0;
  for (std::int64_t i = 0; i < x.num_elements(); ++i) {
    double& value = x.data<double>()[i];
    const double middle = value, up = middle + step, down = middle - step;
    value = up;
    const double high = loss();
    value = down;
    const double low = loss();
    value = middle;
    const double numerical = (high - low) / (up - down);  // the step as it was rounded
    difference += (numerical - analytic.data<double>()[i]) * (numerical - analytic.data<double>()[i]);
    norm += numerical * numerical;
  }
  return norm > 0 ? std::sqrt(difference / norm) : std::sqrt(difference);
}

inline void check_gradient(const std::string& what, const std::function<double()>& loss, Tensor& x,
                           const Tensor& analytic) {
  const double error = gradient_error(loss, x, analytic);
  BOOST_CHECK_MESSAGE(error < 1e-6, what << ": gradient is off by " << error << " of its norm");
}

}  // namespace nmoe::test
