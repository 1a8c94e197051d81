// Linked instead of cuda/*.cu when no CUDA toolkit was found. No tensor can be on a GPU then, so nothing gets
// here but a mistake; it is told the remedy all the same.
#include "../cuda/kernels.hpp"
#include "neuronmoe/base/error.hpp"
#include "neuronmoe/ops/gpu_libraries.hpp"

namespace nmoe::ops::cuda {

namespace {
[[noreturn]] void missing(const char* kernel) {
  throw Error(ErrorCode::config, fmt::format("{}: built without CUDA; use --device cpu", kernel));
}
}  // namespace

using Out = TensorView;
using In = ConstTensorView;
using Offsets = std::span<const std::int64_t>;

void linear_forward(Out, In, In, In, Stream&) {
  missing("linear_forward");
}
void linear_backward_input(Out, In, In, bool, Stream&) {
  missing("linear_backward_input");
}
void linear_backward_weight(Out, In, In, Stream&) {
  missing("linear_backward_weight");
}
void linear_backward_bias(Out, In, Stream&) {
  missing("linear_backward_bias");
}
void embedding_forward(Out, In, In, Stream&) {
  missing("embedding_forward");
}
void embedding_backward(Out, In, In, Stream&) {
  missing("embedding_backward");
}
void rms_norm_forward(Out, Out, In, In, double, Stream&) {
  missing("rms_norm_forward");
}
void add_rms_norm_forward(Out, Out, Out, In, In, double, Stream&) {
  missing("add_rms_norm_forward");
}
void rms_norm_backward(Out, Out, In, In, In, In, bool, Stream&) {
  missing("rms_norm_backward");
}
void rope_apply(Out, In, In, In, bool, Stream&) {
  missing("rope_apply");
}
void attention_forward(Out, Out, In, In, In, Offsets, double, Stream&) {
  missing("attention_forward");
}
void attention_backward(Out, Out, Out, In, In, In, In, In, In, Offsets, double, Stream&) {
  missing("attention_backward");
}
void swiglu_forward(Out, In, In, Stream&) {
  missing("swiglu_forward");
}
void swiglu_backward(Out, Out, In, In, In, Stream&) {
  missing("swiglu_backward");
}
void cross_entropy(Out, Out, In, double, Stream&) {
  missing("cross_entropy");
}
void add_inplace(Out, In, Stream&) {
  missing("add_inplace");
}
void cast(Out, In, Stream&) {
  missing("cast");
}
void fill(Out, double, Stream&) {
  missing("fill");
}
void route_forward(Out, Out, Out, In, bool, Stream&) {
  missing("route_forward");
}
void route_backward(Out, In, In, In, In, In, bool, Stream&) {
  missing("route_backward");
}
void load_balancing_loss(Out, Out, In, In, double, Stream&) {
  missing("load_balancing_loss");
}
void balancing_statistics(Out, Out, In, In, Stream&) {
  missing("balancing_statistics");
}
void balancing_gradient(Out, In, double, double, Stream&) {
  missing("balancing_gradient");
}
void lpr_loss_sum(Out, Out, In, In, LprForm, double, Stream&) {
  missing("lpr_loss_sum");
}
void lay_out_rows(Out, Out, Out, In, In, Stream&) {
  missing("lay_out_rows");
}
void gather_rows(Out, In, In, Stream&) {
  missing("gather_rows");
}
void combine_forward(Out, In, In, In, In, bool, Stream&) {
  missing("combine_forward");
}
void combine_forward_rounded(Out, In, In, In, In, Stream&) {
  missing("combine_forward_rounded");
}
void combine_backward(Out, Out, In, In, In, In, Stream&) {
  missing("combine_backward");
}
void accumulate_by_sample(Out, In, In, Stream&) {
  missing("accumulate_by_sample");
}
void adamw_update(Out, Out, Out, Out, In, const AdamWStep&, Stream&) {
  missing("adamw_update");
}
void sum_of_squares(Out, In, Stream&) {
  missing("sum_of_squares");
}
void sum_groups(Out, In, const RowGroups&, Stream&) {
  missing("sum_groups");
}
void count_positive(Out, In, const RowGroups&, Stream&) {
  missing("count_positive");
}
void add_directions(Out, Out, In, const RowGroups&, double, Stream&) {
  missing("add_directions");
}
void rank_rows(const RankedRows&, In, const RankingTables&, Stream&) {
  missing("rank_rows");
}

}  // namespace nmoe::ops::cuda

namespace nmoe::ops {

void require_gpu_libraries() {
  throw Error(ErrorCode::config, "this program was built without CUDA; use --device cpu");
}

}  // namespace nmoe::ops
