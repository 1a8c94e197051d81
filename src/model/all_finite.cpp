// Infinity and NaN among weights.
#include "all_finite.hpp"

#include <algorithm>
#include <cmath>

namespace nmoe::model {

namespace {

template <typename T>
bool all_finite_of(ConstTensorView values) {
  const auto* const first = static_cast<const T*>(values.raw());
  using Wide = std::conditional_t<std::is_same_v<T, double>, double, float>;
  return std::all_of(first, first + values.num_elements(),
                     [](T value) { return std::isfinite(static_cast<Wide>(value)); });
}

}  // namespace

bool all_finite(ConstTensorView values) {
  switch (values.dtype()) {
    case DType::float64:
      return all_finite_of<double>(values);
    case DType::bfloat16:
      return all_finite_of<bfloat16>(values);
    default:
      return all_finite_of<float>(values);
  }
}

}  // namespace nmoe::model
