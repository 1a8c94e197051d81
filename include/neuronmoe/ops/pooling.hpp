#pragma once
// Sums over groups of rows: what analysis gathers from watched activations (METHOD 1.4, 1.8, 4.1).
// Conventions and errors: ops/linear.hpp. Letters: T rows, N columns, G groups. Every result has the same
// bits on every device and for any number of threads.
#include "neuronmoe/tensor/stream.hpp"
#include "neuronmoe/tensor/tensor.hpp"

namespace nmoe::ops {

/// Group g holds the rows rows[begins[g]], ..., rows[begins[g + 1] − 1]. Rows in no group are not read.
struct RowGroups {
  ConstTensorView rows;    ///< [R] int32, R <= T
  ConstTensorView begins;  ///< [G + 1] int32, ascending from 0 to R
};

/// Pooling: sums[g] = sum of the group's rows in acc, one addition at a time in the order of the group, from
/// 0.
/// @param[out] sums [G, N] acc   @param values [T, N]
void sum_groups(TensorView sums, ConstTensorView values, const RowGroups& groups, Stream& stream);
/// counts[g] += number of the group's rows whose value, as float32, is positive.
/// @param[in,out] counts [G, N] int64   @param values [T, N]
void count_positive(TensorView counts, ConstTensorView values, const RowGroups& groups, Stream& stream);
/// sums[g] += Σ of the group's unit vectors in fixed point: round(x · (scale / |x|)), x as float32, |x|² one
/// float64 addition at a time over the columns, rounding to nearest even. Rows of zero or infinite length are
/// left out; counts[g] += the others.
/// @param[in,out] sums [G, N] int64, counts [G] int64   @param values [T, N]
void add_directions(TensorView sums, TensorView counts, ConstTensorView values, const RowGroups& groups,
                    double scale, Stream& stream);

}  // namespace nmoe::ops
