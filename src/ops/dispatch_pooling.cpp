// Sums over groups of rows: arguments checked, then the kernel of the device.
#include "check.hpp"
#include "neuronmoe/ops/backends.hpp"

namespace nmoe::ops {
namespace {

void expect_groups(const char* name, ConstTensorView values, const RowGroups& groups, std::int64_t count) {
  expect_floating(name, "values", values, 2);
  expect(name, "rows", groups.rows, {groups.rows.num_elements()}, DType::int32);
  expect(name, "begins", groups.begins, {count + 1}, DType::int32);
}

void expect_range_of_groups(const char* name, ConstTensorView values, const RowGroups& groups) {
  expect_range(name, "rows", groups.rows, 0, values.dim(0));
  expect_range(name, "begins", groups.begins, 0, groups.rows.num_elements() + 1);
}

}  // namespace

void sum_groups(TensorView sums, ConstTensorView values, const RowGroups& groups, Stream& stream) {
  constexpr const char* name = "sum_groups";
  expect_groups(name, values, groups, sums.dim(0));
  expect(name, "sums", sums, {sums.dim(0), values.dim(1)}, accumulator_of(values.dtype()));
  if (on_cuda(name, stream, {sums, values, groups.rows, groups.begins}))
    if constexpr (with_cuda) return cuda::sum_groups(sums, values, groups, stream);
  expect_range_of_groups(name, values, groups);
  cpu::sum_groups(sums, values, groups, stream);
}

void count_positive(TensorView counts, ConstTensorView values, const RowGroups& groups, Stream& stream) {
  constexpr const char* name = "count_positive";
  expect_groups(name, values, groups, counts.dim(0));
  expect(name, "counts", counts, {counts.dim(0), values.dim(1)}, DType::int64);
  if (on_cuda(name, stream, {counts, values, groups.rows, groups.begins}))
    if constexpr (with_cuda) return cuda::count_positive(counts, values, groups, stream);
  expect_range_of_groups(name, values, groups);
  cpu::count_positive(counts, values, groups, stream);
}

void add_directions(TensorView sums, TensorView counts, ConstTensorView values, const RowGroups& groups,
                    double scale, Stream& stream) {
  constexpr const char* name = "add_directions";
  expect_groups(name, values, groups, sums.dim(0));
  expect(name, "sums", sums, {sums.dim(0), values.dim(1)}, DType::int64);
  expect(name, "counts", counts, {sums.dim(0)}, DType::int64);
  if (on_cuda(name, stream, {sums, counts, values, groups.rows, groups.begins}))
    if constexpr (with_cuda) return cuda::add_directions(sums, counts, values, groups, scale, stream);
  expect_range_of_groups(name, values, groups);
  cpu::add_directions(sums, counts, values, groups, scale, stream);
}

}  // namespace nmoe::ops
