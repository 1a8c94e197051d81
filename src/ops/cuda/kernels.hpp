#pragma once
// CUDA kernels behind the dispatchers, one per function of nmoe::ops, arguments already checked, for float32
// and bfloat16. Without a CUDA toolkit the same functions throw (no_cuda/missing.cpp). Results do not depend
// on how many blocks run at once: no atomics, every sum has one order, and GEMM algorithms are chosen by
// shape.
#include "neuronmoe/ops/linear.hpp"
#include "neuronmoe/ops/moe.hpp"
#include "neuronmoe/ops/optimizer.hpp"
#include "neuronmoe/ops/pooling.hpp"
#include "neuronmoe/ops/ranking.hpp"
#include "neuronmoe/ops/transformer.hpp"

namespace nmoe::ops::cuda {

void linear_forward(TensorView y, ConstTensorView x, ConstTensorView w, ConstTensorView bias, Stream& stream);
void linear_backward_input(TensorView dx, ConstTensorView dy, ConstTensorView w, bool accumulate,
                           Stream& stream);
void linear_backward_weight(TensorView dw, ConstTensorView dy, ConstTensorView x, Stream& stream);
void linear_backward_bias(TensorView db, ConstTensorView dy, Stream& stream);
void embedding_forward(TensorView y, ConstTensorView ids, ConstTensorView table, Stream& stream);
void embedding_backward(TensorView dtable, ConstTensorView dy, ConstTensorView ids, Stream& stream);
void rms_norm_forward(TensorView y, TensorView inv_rms, ConstTensorView x, ConstTensorView w, double eps,
                      Stream& stream);
void add_rms_norm_forward(TensorView y, TensorView inv_rms, TensorView x, ConstTensorView residual,
                          ConstTensorView w, double eps, Stream& stream);
void rms_norm_backward(TensorView dx, TensorView dw, ConstTensorView dy, ConstTensorView x, ConstTensorView w,
                       ConstTensorView inv_rms, bool accumulate, Stream& stream);
void rope_apply(TensorView x, ConstTensorView positions, ConstTensorView cos, ConstTensorView sin,
                bool inverse, Stream& stream);
void attention_forward(TensorView o, TensorView lse, ConstTensorView q, ConstTensorView k, ConstTensorView v,
                       std::span<const std::int64_t> offsets, double scale, Stream& stream);
void attention_backward(TensorView dq, TensorView dk, TensorView dv, ConstTensorView d_o, ConstTensorView o,
                        ConstTensorView q, ConstTensorView k, ConstTensorView v, ConstTensorView lse,
                        std::span<const std::int64_t> offsets, double scale, Stream& stream);
void swiglu_forward(TensorView h, ConstTensorView gate, ConstTensorView up, Stream& stream);
void swiglu_backward(TensorView dgate, TensorView dup, ConstTensorView dh, ConstTensorView gate,
                     ConstTensorView up, Stream& stream);
void cross_entropy(TensorView losses, TensorView logits, ConstTensorView labels, double grad_scale,
                   Stream& stream);
void add_inplace(TensorView y, ConstTensorView x, Stream& stream);
void cast(TensorView dst, ConstTensorView src, Stream& stream);
void fill(TensorView x, double value, Stream& stream);
void route_forward(TensorView probs, TensorView weights, TensorView indices, ConstTensorView logits,
                   bool normalise, Stream& stream);
void route_backward(TensorView dlogits, ConstTensorView dweights, ConstTensorView dprobs,
                    ConstTensorView probs, ConstTensorView weights, ConstTensorView indices, bool normalise,
                    Stream& stream);
void load_balancing_loss(TensorView loss, TensorView dprobs, ConstTensorView probs, ConstTensorView indices,
                         double grad_scale, Stream& stream);
void balancing_statistics(TensorView counts, TensorView sums, ConstTensorView probs, ConstTensorView indices,
                          Stream& stream);
void balancing_gradient(TensorView dprobs, ConstTensorView counts, double num_tokens, double grad_scale,
                        Stream& stream);
void lpr_loss_sum(TensorView loss, TensorView dprobs, ConstTensorView probs, ConstTensorView mask,
                  LprForm form, double grad_scale, Stream& stream);
void lay_out_rows(TensorView token_of_row, TensorView row_of_slot, TensorView counts, ConstTensorView indices,
                  ConstTensorView place_of_expert, Stream& stream);
void gather_rows(TensorView rows, ConstTensorView x, ConstTensorView token_of_row, Stream& stream);
void combine_forward(TensorView y, ConstTensorView rows, ConstTensorView row_of_slot, ConstTensorView indices,
                     ConstTensorView weights, bool accumulate, Stream& stream);
void combine_forward_rounded(TensorView y, ConstTensorView rows, ConstTensorView row_of_slot,
                             ConstTensorView indices, ConstTensorView weights, Stream& stream);
void combine_backward(TensorView drows, TensorView dweights, ConstTensorView dy, ConstTensorView rows,
                      ConstTensorView row_of_slot, ConstTensorView weights, Stream& stream);
void accumulate_by_sample(TensorView sums, ConstTensorView values, ConstTensorView row_sample,
                          Stream& stream);
void adamw_update(TensorView weight, TensorView master, TensorView exp_avg, TensorView exp_avg_sq,
                  ConstTensorView grad, const AdamWStep& step, Stream& stream);
void sum_of_squares(TensorView partials, ConstTensorView x, Stream& stream);
void sum_groups(TensorView sums, ConstTensorView values, const RowGroups& groups, Stream& stream);
void count_positive(TensorView counts, ConstTensorView values, const RowGroups& groups, Stream& stream);
void add_directions(TensorView sums, TensorView counts, ConstTensorView values, const RowGroups& groups,
                    double scale, Stream& stream);
void rank_rows(const RankedRows& results, ConstTensorView responses, const RankingTables& tables,
               Stream& stream);

}  // namespace nmoe::ops::cuda
