// Plain loops of the sums over groups of rows.
#include <cmath>

#include "floating.hpp"
#include "neuronmoe/ops/backends.hpp"

namespace nmoe::ops::reference {

using cpu::acc_t;
using cpu::to_acc;
using cpu::visit_floating;

namespace {

/// f(group, row) for every row of every group, in order.
template <typename F>
void for_each_row(const RowGroups& groups, F&& f) {
  const auto *rows = groups.rows.data<std::int32_t>(), *begins = groups.begins.data<std::int32_t>();
  for (std::int64_t g = 0; g + 1 < groups.begins.dim(0); ++g)
    for (std::int32_t i = begins[g]; i < begins[g + 1]; ++i) f(g, std::int64_t{rows[i]});
}

}  // namespace

void sum_groups(TensorView sums, ConstTensorView values, const RowGroups& groups, Stream&) {
  const std::int64_t width = values.dim(1);
  visit_floating(values.dtype(), [&]<typename T>() {
    auto* out = sums.data<acc_t<T>>();
    for (std::int64_t i = 0; i < sums.num_elements(); ++i) out[i] = 0;
    for_each_row(groups, [&](std::int64_t group, std::int64_t row) {
      for (std::int64_t n = 0; n < width; ++n)
        out[group * width + n] += to_acc(values.data<T>()[row * width + n]);
    });
  });
}

void count_positive(TensorView counts, ConstTensorView values, const RowGroups& groups, Stream&) {
  const std::int64_t width = values.dim(1);
  visit_floating(values.dtype(), [&]<typename T>() {
    for_each_row(groups, [&](std::int64_t group, std::int64_t row) {
      for (std::int64_t n = 0; n < width; ++n)
        if (static_cast<float>(values.data<T>()[row * width + n]) > 0.0F)
          ++counts.data<std::int64_t>()[group * width + n];
    });
  });
}

void add_directions(TensorView sums, TensorView counts, ConstTensorView values, const RowGroups& groups,
                    double scale, Stream&) {
  const std::int64_t width = values.dim(1);
  visit_floating(values.dtype(), [&]<typename T>() {
    for_each_row(groups, [&](std::int64_t group, std::int64_t row) {
      const T* x = values.data<T>() + row * width;
      double squares = 0.0;
      for (std::int64_t n = 0; n < width; ++n) {
        const auto value = static_cast<double>(static_cast<float>(x[n]));
        squares += value * value;
      }
      if (!(squares > 0.0) || !std::isfinite(squares)) return;
      ++counts.data<std::int64_t>()[group];
      const double factor = scale / std::sqrt(squares);
      for (std::int64_t n = 0; n < width; ++n)
        sums.data<std::int64_t>()[group * width + n] +=
            std::llrint(static_cast<double>(static_cast<float>(x[n])) * factor);
    });
  });
}

}  // namespace nmoe::ops::reference
