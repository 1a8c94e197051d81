// Ranked rows: arguments checked, then the kernel of the device.
#include "check.hpp"
#include "neuronmoe/ops/backends.hpp"

namespace nmoe::ops {

void rank_rows(const RankedRows& results, ConstTensorView responses, const RankingTables& tables,
               Stream& stream) {
  constexpr const char* name = "rank_rows";
  expect_floating(name, "responses", responses, 2);
  const std::int64_t rows = responses.dim(0), samples = responses.dim(1), languages = tables.roles.dim(0);
  expect(name, "responses", responses, {rows, samples}, DType::float32);
  expect(name, "class_of_sample", tables.class_of_sample, {samples}, DType::int32);
  expect(name, "roles", tables.roles, {languages, tables.roles.dim(1)}, DType::uint8);
  expect(name, "positives_begin", tables.positives_begin, {languages + 1}, DType::int64);
  expect(name, "sample_by_class", tables.sample_by_class, {samples}, DType::int32);
  expect(name, "class_begin", tables.class_begin, {tables.roles.dim(1) + 1}, DType::int32);
  expect(name, "wanted", tables.wanted, {languages, num_order_statistics}, DType::int32);
  expect(name, "values", results.values, {num_ranked_values, rows, languages}, DType::float64);
  expect(name, "order_statistics", results.order_statistics, {rows, languages, num_order_statistics},
         DType::float32);
  expect(name, "first_nan", results.first_nan, {rows}, DType::int32);
  if (on_cuda(
          name, stream,
          {responses, tables.class_of_sample, tables.roles, tables.positives_begin, tables.sample_by_class,
           tables.class_begin, tables.wanted, results.values, results.order_statistics, results.first_nan}))
    if constexpr (with_cuda) return cuda::rank_rows(results, responses, tables, stream);
  expect_range(name, "class_of_sample", tables.class_of_sample, 0, tables.roles.dim(1));
  expect_range(name, "sample_by_class", tables.sample_by_class, 0, samples);
  reference::rank_rows(results, responses, tables, stream);
}

}  // namespace nmoe::ops
