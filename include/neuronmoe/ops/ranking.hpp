#pragma once
// Average precision and order statistics of rows of responses, every language at once (METHOD 1.5, 1.6): what
// analysis::NeuronScorer does row by row on the CPU, for a slab of rows where the tensors are. Conventions
// and errors: ops/linear.hpp. Letters: N rows, S samples, C classes of samples, G languages, O order
// statistics, V ranked values.
#include "neuronmoe/tensor/stream.hpp"
#include "neuronmoe/tensor/tensor.hpp"

namespace nmoe::ops {

/// O, the values wanted per language: the first num_positive_statistics are among its positives, the others
/// among its negatives.
inline constexpr int num_order_statistics = 6, num_positive_statistics = 4;

/// What the samples are to the languages, on the device that ranks.
struct RankingTables {
  ConstTensorView class_of_sample;               ///< [S] int32, < 65,536
  ConstTensorView roles;                         ///< [G, C] uint8: 0 negative, 1 positive, 2 absent
  ConstTensorView positives_begin;               ///< [G + 1] int64: running sum of the languages' positives
  std::int64_t num_positives = 0;                ///< its last element, on the host
  ConstTensorView sample_by_class, class_begin;  ///< [S], [C + 1] int32: samples of class 0, of class 1, ...
  /// [G, O] int32: how many positives (negatives) stand above the wanted one; −1: not wanted.
  ConstTensorView wanted;
  /// Nobody is absent and no class is positive for two languages: negatives are summed class by class.
  bool disjoint = false;
};

/// What is computed from a whole ranking or all responses: average precision (0 without positives), and the
/// sum over negatives.
enum class RankedValue { ap, off_sum };
inline constexpr int num_ranked_values = 2;  ///< V

/// Results, all overwritten. Of a row with a NaN only first_nan means anything.
struct RankedRows {
  TensorView values;            ///< [V, N, G] float64, by RankedValue
  TensorView order_statistics;  ///< [N, G, O] float32, −0 as +0; unspecified where not wanted
  TensorView first_nan;         ///< [N] int32: first sample whose response is NaN, S if there is none

  /// Returns the values of one kind, [N, G], where the tensors are.
  double* of(RankedValue value) const {
    return values.data<double>() + static_cast<int>(value) * values.dim(1) * values.dim(2);
  }
};

/// Equal responses (−0 equals +0) share one threshold. The precision at the i-th positive joins partial sum
/// i mod 8; the eight are added as a tree, ((0+4)+(2+6)) + ((1+5)+(3+7)). Sums over negatives likewise, by
/// position in the class, then class by class; if not disjoint, by sample. The same bits on every device.
/// @param responses [N, S] float32
void rank_rows(const RankedRows& results, ConstTensorView responses, const RankingTables& tables,
               Stream& stream);

}  // namespace nmoe::ops
