#pragma once
// CPU kernels behind the dispatchers, one per function of nmoe::ops, arguments already checked. float32 and
// bfloat16 take the blocked, vectorised and threaded versions of this directory; float64 takes the plain
// loops (ops/reference.hpp). Routing and the auxiliary losses work on [T, E] only and always take the plain
// loops.
#include "neuronmoe/ops/reference.hpp"

namespace nmoe::ops::cpu {

void linear_forward(TensorView y, ConstTensorView x, ConstTensorView w, ConstTensorView bias);
void linear_backward_input(TensorView dx, ConstTensorView dy, ConstTensorView w, bool accumulate);
void linear_backward_weight(TensorView dw, ConstTensorView dy, ConstTensorView x);
void linear_backward_bias(TensorView db, ConstTensorView dy);
void embedding_forward(TensorView y, ConstTensorView ids, ConstTensorView table);
void embedding_backward(TensorView dtable, ConstTensorView dy, ConstTensorView ids);
void rms_norm_forward(TensorView y, TensorView inv_rms, ConstTensorView x, ConstTensorView w, double eps);
void add_rms_norm_forward(TensorView y, TensorView inv_rms, TensorView x, ConstTensorView residual,
                          ConstTensorView w, double eps);
void rms_norm_backward(TensorView dx, TensorView dw, ConstTensorView dy, ConstTensorView x, ConstTensorView w,
                       ConstTensorView inv_rms, bool accumulate);
void rope_apply(TensorView x, ConstTensorView positions, ConstTensorView cos, ConstTensorView sin,
                bool inverse);
void attention_forward(TensorView o, TensorView lse, ConstTensorView q, ConstTensorView k, ConstTensorView v,
                       std::span<const std::int64_t> offsets, double scale);
void attention_backward(TensorView dq, TensorView dk, TensorView dv, ConstTensorView d_o, ConstTensorView o,
                        ConstTensorView q, ConstTensorView k, ConstTensorView v, ConstTensorView lse,
                        std::span<const std::int64_t> offsets, double scale);
void swiglu_forward(TensorView h, ConstTensorView gate, ConstTensorView up);
void swiglu_backward(TensorView dgate, TensorView dup, ConstTensorView dh, ConstTensorView gate,
                     ConstTensorView up);
void cross_entropy(TensorView losses, TensorView logits, ConstTensorView labels, double grad_scale);
void add_inplace(TensorView y, ConstTensorView x);
void cast(TensorView dst, ConstTensorView src);
void fill(TensorView x, double value);
void gather_rows(TensorView rows, ConstTensorView x, ConstTensorView token_of_row);
void combine_forward(TensorView y, ConstTensorView rows, ConstTensorView row_of_slot, ConstTensorView indices,
                     ConstTensorView weights, bool accumulate);
void combine_backward(TensorView drows, TensorView dweights, ConstTensorView dy, ConstTensorView rows,
                      ConstTensorView row_of_slot, ConstTensorView weights);
void accumulate_by_sample(TensorView sums, ConstTensorView values, ConstTensorView row_sample);
void adamw_update(TensorView weight, TensorView master, TensorView exp_avg, TensorView exp_avg_sq,
                  ConstTensorView grad, const AdamWStep& step);
void sum_of_squares(TensorView partials, ConstTensorView x);
void sum_groups(TensorView sums, ConstTensorView values, const RowGroups& groups);
void count_positive(TensorView counts, ConstTensorView values, const RowGroups& groups);
void add_directions(TensorView sums, TensorView counts, ConstTensorView values, const RowGroups& groups,
                    double scale);

}  // namespace nmoe::ops::cpu
