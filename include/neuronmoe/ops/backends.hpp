#pragma once
// The kernels behind nmoe::ops, by backend. Each has the arguments, shapes and results of the function of the
// same name in nmoe::ops, whose declaration is the only one that is written out; arguments are not checked
// here, and the stream matters on a GPU only. The dispatchers of src/ops call these; tests compare
// `reference` with the others.
#include "neuronmoe/ops/linear.hpp"
#include "neuronmoe/ops/moe.hpp"
#include "neuronmoe/ops/optimizer.hpp"
#include "neuronmoe/ops/pooling.hpp"
#include "neuronmoe/ops/ranking.hpp"
#include "neuronmoe/ops/transformer.hpp"

namespace nmoe::ops {

/// Plain loops for every kernel: a student's reading of each equation, on the CPU, for float64, float32 and
/// bfloat16. They are what float64 tensors run on (gradient checks).
namespace reference {
decltype(ops::linear_forward) linear_forward;
decltype(ops::linear_backward_input) linear_backward_input;
decltype(ops::linear_backward_weight) linear_backward_weight;
decltype(ops::linear_backward_bias) linear_backward_bias;
decltype(ops::embedding_forward) embedding_forward;
decltype(ops::embedding_backward) embedding_backward;
decltype(ops::rms_norm_forward) rms_norm_forward;
decltype(ops::add_rms_norm_forward) add_rms_norm_forward;
decltype(ops::rms_norm_backward) rms_norm_backward;
decltype(ops::rope_apply) rope_apply;
decltype(ops::attention_forward) attention_forward;
decltype(ops::attention_backward) attention_backward;
decltype(ops::attention_prefixed_forward) attention_prefixed_forward;
decltype(ops::swiglu_forward) swiglu_forward;
decltype(ops::swiglu_backward) swiglu_backward;
decltype(ops::cross_entropy) cross_entropy;
decltype(ops::argmax_rows) argmax_rows;
decltype(ops::add_inplace) add_inplace;
decltype(ops::cast) cast;
decltype(ops::fill) fill;
decltype(ops::replace_columns) replace_columns;
decltype(ops::route_forward) route_forward;
decltype(ops::route_backward) route_backward;
decltype(ops::load_balancing_loss) load_balancing_loss;
decltype(ops::balancing_statistics) balancing_statistics;
decltype(ops::balancing_gradient) balancing_gradient;
decltype(ops::lpr_loss_sum) lpr_loss_sum;
decltype(ops::lay_out_rows) lay_out_rows;
decltype(ops::gather_rows) gather_rows;
decltype(ops::combine_forward) combine_forward;
decltype(ops::combine_forward_rounded) combine_forward_rounded;
decltype(ops::combine_backward) combine_backward;
decltype(ops::adamw_update) adamw_update;
decltype(ops::sum_of_squares) sum_of_squares;
decltype(ops::sum_groups) sum_groups;
decltype(ops::count_positive) count_positive;
decltype(ops::add_directions) add_directions;
decltype(ops::rank_rows) rank_rows;
}  // namespace reference

/// Blocked, vectorized and threaded versions for float32 and bfloat16, which hand float64 to the plain loops.
/// Routing, the auxiliary losses, ranking, argmax_rows and replace_columns have the plain loops alone.
namespace cpu {
decltype(ops::linear_forward) linear_forward;
decltype(ops::linear_backward_input) linear_backward_input;
decltype(ops::linear_backward_weight) linear_backward_weight;
decltype(ops::linear_backward_bias) linear_backward_bias;
decltype(ops::embedding_forward) embedding_forward;
decltype(ops::embedding_backward) embedding_backward;
decltype(ops::rms_norm_forward) rms_norm_forward;
decltype(ops::add_rms_norm_forward) add_rms_norm_forward;
decltype(ops::rms_norm_backward) rms_norm_backward;
decltype(ops::rope_apply) rope_apply;
decltype(ops::attention_forward) attention_forward;
decltype(ops::attention_backward) attention_backward;
decltype(ops::attention_prefixed_forward) attention_prefixed_forward;
decltype(ops::swiglu_forward) swiglu_forward;
decltype(ops::swiglu_backward) swiglu_backward;
decltype(ops::cross_entropy) cross_entropy;
decltype(ops::add_inplace) add_inplace;
decltype(ops::cast) cast;
decltype(ops::fill) fill;
decltype(ops::gather_rows) gather_rows;
decltype(ops::combine_forward) combine_forward;
decltype(ops::combine_backward) combine_backward;
decltype(ops::adamw_update) adamw_update;
decltype(ops::sum_of_squares) sum_of_squares;
decltype(ops::sum_groups) sum_groups;
decltype(ops::count_positive) count_positive;
decltype(ops::add_directions) add_directions;

/// Returns whether, on this CPU, a row of a float32 product has the same bits whatever rows come with it and
/// however many: then results do not depend on how tokens are cut into batches. True with AVX-512, and in a
/// build without oneDNN. Products of bfloat16 matrices are oneDNN's, whose sums follow the number of rows.
bool rows_are_independent();
}  // namespace cpu

/// CUDA, for float32 and bfloat16; not defined in a build without it. Results do not depend on how many
/// blocks run at once: no atomics, every sum has one order, and GEMM algorithms are chosen by shape.
namespace cuda {
decltype(ops::linear_forward) linear_forward;
decltype(ops::linear_backward_input) linear_backward_input;
decltype(ops::linear_backward_weight) linear_backward_weight;
decltype(ops::linear_backward_bias) linear_backward_bias;
decltype(ops::embedding_forward) embedding_forward;
decltype(ops::embedding_backward) embedding_backward;
decltype(ops::rms_norm_forward) rms_norm_forward;
decltype(ops::add_rms_norm_forward) add_rms_norm_forward;
decltype(ops::rms_norm_backward) rms_norm_backward;
decltype(ops::rope_apply) rope_apply;
decltype(ops::attention_forward) attention_forward;
decltype(ops::attention_backward) attention_backward;
decltype(ops::attention_prefixed_forward) attention_prefixed_forward;
decltype(ops::swiglu_forward) swiglu_forward;
decltype(ops::swiglu_backward) swiglu_backward;
decltype(ops::cross_entropy) cross_entropy;
decltype(ops::argmax_rows) argmax_rows;
decltype(ops::add_inplace) add_inplace;
decltype(ops::cast) cast;
decltype(ops::fill) fill;
decltype(ops::replace_columns) replace_columns;
decltype(ops::route_forward) route_forward;
decltype(ops::route_backward) route_backward;
decltype(ops::load_balancing_loss) load_balancing_loss;
decltype(ops::balancing_statistics) balancing_statistics;
decltype(ops::balancing_gradient) balancing_gradient;
decltype(ops::lpr_loss_sum) lpr_loss_sum;
decltype(ops::lay_out_rows) lay_out_rows;
decltype(ops::gather_rows) gather_rows;
decltype(ops::combine_forward) combine_forward;
decltype(ops::combine_forward_rounded) combine_forward_rounded;
decltype(ops::combine_backward) combine_backward;
decltype(ops::adamw_update) adamw_update;
decltype(ops::sum_of_squares) sum_of_squares;
decltype(ops::sum_groups) sum_groups;
decltype(ops::count_positive) count_positive;
decltype(ops::add_directions) add_directions;
decltype(ops::rank_rows) rank_rows;
}  // namespace cuda

}  // namespace nmoe::ops
