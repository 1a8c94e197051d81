// The mixture-of-experts layer: arguments checked, then the kernel of the device.
#include "check.hpp"
#include "neuronmoe/ops/backends.hpp"

namespace nmoe::ops {

namespace {
void check_router(const char* name, ConstTensorView probs, ConstTensorView indices) {
  expect_floating(name, "probs", probs, 2);
  expect(name, "probs", probs, probs.shape(), accumulator_of(probs.dtype()));
  NMOE_CHECK(bool(indices) && indices.shape().rank() == 2, internal, "{}: indices is {}, expected [T, K]",
             name, indices.shape().to_string());
  expect(name, "indices", indices, {probs.dim(0), indices.dim(1)}, DType::int32);
}
}  // namespace

void route_forward(TensorView probs, TensorView weights, TensorView indices, ConstTensorView logits,
                   bool normalise, Stream& stream) {
  constexpr const char* name = "route_forward";
  check_router(name, probs, indices);
  NMOE_CHECK(indices.dim(1) >= 1 && indices.dim(1) <= probs.dim(1), internal,
             "{}: top_k {} of {} experts; top_k must be between 1 and the number of experts", name,
             indices.dim(1), probs.dim(1));
  expect(name, "weights", weights, indices.shape(), probs.dtype());
  expect(name, "logits", logits, probs.shape(), probs.dtype());
  if (on_cuda(name, stream, {probs, weights, indices, logits}))
    if constexpr (with_cuda) return cuda::route_forward(probs, weights, indices, logits, normalise, stream);
  reference::route_forward(probs, weights, indices, logits, normalise, stream);
}

void route_backward(TensorView dlogits, ConstTensorView dweights, ConstTensorView dprobs,
                    ConstTensorView probs, ConstTensorView weights, ConstTensorView indices, bool normalise,
                    Stream& stream) {
  constexpr const char* name = "route_backward";
  check_router(name, probs, indices);
  expect(name, "dlogits", dlogits, probs.shape(), probs.dtype());
  expect(name, "dweights", dweights, indices.shape(), probs.dtype());
  if (dprobs) expect(name, "dprobs", dprobs, probs.shape(), probs.dtype());
  expect(name, "weights", weights, indices.shape(), probs.dtype());
  if (on_cuda(name, stream, {dlogits, dweights, dprobs, probs, weights, indices}))
    if constexpr (with_cuda)
      return cuda::route_backward(dlogits, dweights, dprobs, probs, weights, indices, normalise, stream);
  expect_range(name, "indices", indices, 0, probs.dim(1));
  reference::route_backward(dlogits, dweights, dprobs, probs, weights, indices, normalise, stream);
}

void load_balancing_loss(TensorView loss, TensorView dprobs, ConstTensorView probs, ConstTensorView indices,
                         double grad_scale, Stream& stream) {
  constexpr const char* name = "load_balancing_loss";
  check_router(name, probs, indices);
  expect(name, "loss", loss, {1}, DType::float64);
  if (dprobs) expect(name, "dprobs", dprobs, probs.shape(), probs.dtype());
  if (on_cuda(name, stream, {loss, dprobs, probs, indices}))
    if constexpr (with_cuda)
      return cuda::load_balancing_loss(loss, dprobs, probs, indices, grad_scale, stream);
  expect_range(name, "indices", indices, 0, probs.dim(1));
  reference::load_balancing_loss(loss, dprobs, probs, indices, grad_scale, stream);
}

void balancing_statistics(TensorView counts, TensorView sums, ConstTensorView probs, ConstTensorView indices,
                          Stream& stream) {
  constexpr const char* name = "balancing_statistics";
  check_router(name, probs, indices);
  expect(name, "counts", counts, {probs.dim(1)}, DType::float64);
  expect(name, "sums", sums, {probs.dim(1)}, DType::float64);
  if (on_cuda(name, stream, {counts, sums, probs, indices}))
    if constexpr (with_cuda) return cuda::balancing_statistics(counts, sums, probs, indices, stream);
  expect_range(name, "indices", indices, 0, probs.dim(1));
  reference::balancing_statistics(counts, sums, probs, indices, stream);
}

double balancing_loss_of(ConstTensorView counts, ConstTensorView sums, double num_tokens) {
  if (num_tokens == 0.0) return 0.0;
  const std::int64_t experts = counts.num_elements();
  double loss = 0.0;
  for (std::int64_t e = 0; e < experts; ++e) {
    const double share = counts.data<double>()[e] / num_tokens;
    loss += static_cast<double>(experts) * sums.data<double>()[e] / num_tokens * share;
  }
  return loss;
}

void balancing_gradient(TensorView dprobs, ConstTensorView counts, double num_tokens, double grad_scale,
                        Stream& stream) {
  constexpr const char* name = "balancing_gradient";
  expect_floating(name, "dprobs", dprobs, 2);
  expect(name, "counts", counts, {dprobs.dim(1)}, DType::float64);
  NMOE_CHECK(num_tokens > 0.0 || dprobs.dim(0) == 0, internal, "{}: {} rows but {} tokens", name,
             dprobs.dim(0), num_tokens);
  if (on_cuda(name, stream, {dprobs, counts}))
    if constexpr (with_cuda) return cuda::balancing_gradient(dprobs, counts, num_tokens, grad_scale, stream);
  reference::balancing_gradient(dprobs, counts, num_tokens, grad_scale, stream);
}

void lpr_loss_sum(TensorView loss, TensorView dprobs, ConstTensorView probs, ConstTensorView mask,
                  LprForm form, double grad_scale, Stream& stream) {
  constexpr const char* name = "lpr_loss_sum";
  expect_floating(name, "probs", probs, 2);
  expect(name, "probs", probs, probs.shape(), accumulator_of(probs.dtype()));
  NMOE_CHECK(probs.dim(1) >= 1, internal, "{}: no experts", name);
  expect(name, "mask", mask, {probs.dim(0)}, DType::uint8);
  if (dprobs) expect(name, "dprobs", dprobs, probs.shape(), probs.dtype());
  expect(name, "loss", loss, {1}, DType::float64);
  if (on_cuda(name, stream, {loss, dprobs, probs, mask}))
    if constexpr (with_cuda) return cuda::lpr_loss_sum(loss, dprobs, probs, mask, form, grad_scale, stream);
  reference::lpr_loss_sum(loss, dprobs, probs, mask, form, grad_scale, stream);
}

void lay_out_rows(TensorView token_of_row, TensorView row_of_slot, TensorView counts, ConstTensorView indices,
                  ConstTensorView place_of_expert, Stream& stream) {
  constexpr const char* name = "lay_out_rows";
  NMOE_CHECK(bool(indices) && indices.shape().rank() == 2 && bool(counts), internal,
             "{}: indices is {}, expected [T, K]", name, indices.shape().to_string());
  expect(name, "token_of_row", token_of_row, {indices.num_elements()}, DType::int32);
  expect(name, "row_of_slot", row_of_slot, indices.shape(), DType::int32);
  expect(name, "counts", counts, {counts.num_elements()}, DType::int64);
  expect(name, "place_of_expert", place_of_expert, counts.shape(), DType::int32);
  if (on_cuda(name, stream, {token_of_row, row_of_slot, counts, indices, place_of_expert}))
    if constexpr (with_cuda)
      return cuda::lay_out_rows(token_of_row, row_of_slot, counts, indices, place_of_expert, stream);
  expect_range(name, "indices", indices, 0, counts.num_elements());
  reference::lay_out_rows(token_of_row, row_of_slot, counts, indices, place_of_expert, stream);
}

void gather_rows(TensorView rows, ConstTensorView x, ConstTensorView token_of_row, Stream& stream) {
  constexpr const char* name = "gather_rows";
  if (x.dtype() != DType::int32) expect_floating(name, "x", x, 2);
  NMOE_CHECK(x.shape().rank() == 2 && rows.shape().rank() == 2, internal, "{}: x is {}, rows is {}", name,
             x.shape().to_string(), rows.shape().to_string());
  expect(name, "rows", rows, {rows.dim(0), x.dim(1)}, x.dtype());
  expect(name, "token_of_row", token_of_row, {rows.dim(0)}, DType::int32);
  if (on_cuda(name, stream, {rows, x, token_of_row}))
    if constexpr (with_cuda) return cuda::gather_rows(rows, x, token_of_row, stream);
  expect_range(name, "token_of_row", token_of_row, 0, x.dim(0));
  cpu::gather_rows(rows, x, token_of_row, stream);
}

namespace {
void check_slots(const char* name, ConstTensorView tokens, ConstTensorView rows,
                 ConstTensorView row_of_slot) {
  expect_floating(name, "rows", rows, 2);
  expect_floating(name, "tokens", tokens, 2);
  expect(name, "tokens", tokens, {tokens.dim(0), rows.dim(1)}, rows.dtype());
  NMOE_CHECK(bool(row_of_slot) && row_of_slot.shape().rank() == 2, internal,
             "{}: row_of_slot is {}, expected [T, K]", name, row_of_slot.shape().to_string());
  expect(name, "row_of_slot", row_of_slot, {tokens.dim(0), row_of_slot.dim(1)}, DType::int32);
}
}  // namespace

void combine_forward(TensorView y, ConstTensorView rows, ConstTensorView row_of_slot, ConstTensorView indices,
                     ConstTensorView weights, bool accumulate, Stream& stream) {
  constexpr const char* name = "combine_forward";
  check_slots(name, y, rows, row_of_slot);
  expect(name, "indices", indices, row_of_slot.shape(), DType::int32);
  if (weights) expect(name, "weights", weights, row_of_slot.shape(), accumulator_of(y.dtype()));
  if (on_cuda(name, stream, {y, rows, row_of_slot, indices, weights}))
    if constexpr (with_cuda)
      return cuda::combine_forward(y, rows, row_of_slot, indices, weights, accumulate, stream);
  expect_range(name, "row_of_slot", row_of_slot, -1, rows.dim(0));
  cpu::combine_forward(y, rows, row_of_slot, indices, weights, accumulate, stream);
}

void combine_forward_rounded(TensorView y, ConstTensorView rows, ConstTensorView row_of_slot,
                             ConstTensorView indices, ConstTensorView weights, Stream& stream) {
  constexpr const char* name = "combine_forward_rounded";
  check_slots(name, y, rows, row_of_slot);
  expect(name, "indices", indices, row_of_slot.shape(), DType::int32);
  expect(name, "weights", weights, row_of_slot.shape(), accumulator_of(y.dtype()));
  if (on_cuda(name, stream, {y, rows, row_of_slot, indices, weights}))
    if constexpr (with_cuda)
      return cuda::combine_forward_rounded(y, rows, row_of_slot, indices, weights, stream);
  expect_range(name, "row_of_slot", row_of_slot, -1, rows.dim(0));
  reference::combine_forward_rounded(y, rows, row_of_slot, indices, weights, stream);
}

void combine_backward(TensorView drows, TensorView dweights, ConstTensorView dy, ConstTensorView rows,
                      ConstTensorView row_of_slot, ConstTensorView weights, Stream& stream) {
  constexpr const char* name = "combine_backward";
  check_slots(name, dy, rows, row_of_slot);
  expect(name, "drows", drows, rows.shape(), rows.dtype());
  expect(name, "dweights", dweights, row_of_slot.shape(), accumulator_of(dy.dtype()));
  expect(name, "weights", weights, row_of_slot.shape(), accumulator_of(dy.dtype()));
  if (on_cuda(name, stream, {drows, dweights, dy, rows, row_of_slot, weights}))
    if constexpr (with_cuda)
      return cuda::combine_backward(drows, dweights, dy, rows, row_of_slot, weights, stream);
  expect_range(name, "row_of_slot", row_of_slot, -1, rows.dim(0));
  cpu::combine_backward(drows, dweights, dy, rows, row_of_slot, weights, stream);
}

}  // namespace nmoe::ops
