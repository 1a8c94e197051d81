// The dense decoder: arguments checked, then the kernel of the device.
#include <limits>

#include "check.hpp"
#include "neuronmoe/ops/backends.hpp"

namespace nmoe::ops {

void embedding_forward(TensorView y, ConstTensorView ids, ConstTensorView table, Stream& stream) {
  constexpr const char* name = "embedding_forward";
  expect_floating(name, "table", table, 2);
  expect_floating(name, "y", y, 2);
  expect(name, "y", y, {y.dim(0), table.dim(1)}, table.dtype());
  expect(name, "ids", ids, {y.dim(0)}, DType::int32);
  if (on_cuda(name, stream, {y, ids, table}))
    if constexpr (with_cuda) return cuda::embedding_forward(y, ids, table, stream);
  expect_range(name, "ids", ids, 0, table.dim(0));
  cpu::embedding_forward(y, ids, table, stream);
}

void embedding_backward(TensorView dtable, ConstTensorView dy, ConstTensorView ids, Stream& stream) {
  constexpr const char* name = "embedding_backward";
  expect_floating(name, "dy", dy, 2);
  expect_floating(name, "dtable", dtable, 2);
  expect(name, "dtable", dtable, {dtable.dim(0), dy.dim(1)}, accumulator_of(dy.dtype()));
  expect(name, "ids", ids, {dy.dim(0)}, DType::int32);
  if (on_cuda(name, stream, {dtable, dy, ids}))
    if constexpr (with_cuda) return cuda::embedding_backward(dtable, dy, ids, stream);
  expect_range(name, "ids", ids, 0, dtable.dim(0));
  cpu::embedding_backward(dtable, dy, ids, stream);
}

void rms_norm_forward(TensorView y, TensorView inv_rms, ConstTensorView x, ConstTensorView w, double eps,
                      Stream& stream) {
  constexpr const char* name = "rms_norm_forward";
  expect_floating(name, "x", x, 2);
  expect(name, "y", y, x.shape(), x.dtype());
  expect(name, "inv_rms", inv_rms, {x.dim(0)}, accumulator_of(x.dtype()));
  expect(name, "w", w, {x.dim(1)}, x.dtype());
  if (on_cuda(name, stream, {y, inv_rms, x, w}))
    if constexpr (with_cuda) return cuda::rms_norm_forward(y, inv_rms, x, w, eps, stream);
  cpu::rms_norm_forward(y, inv_rms, x, w, eps, stream);
}

void add_rms_norm_forward(TensorView y, TensorView inv_rms, TensorView x, ConstTensorView residual,
                          ConstTensorView w, double eps, Stream& stream) {
  constexpr const char* name = "add_rms_norm_forward";
  expect_floating(name, "x", x, 2);
  expect(name, "residual", residual, x.shape(), x.dtype());
  expect(name, "y", y, x.shape(), x.dtype());
  expect(name, "inv_rms", inv_rms, {x.dim(0)}, accumulator_of(x.dtype()));
  expect(name, "w", w, {x.dim(1)}, x.dtype());
  if (on_cuda(name, stream, {y, inv_rms, x, residual, w}))
    if constexpr (with_cuda) return cuda::add_rms_norm_forward(y, inv_rms, x, residual, w, eps, stream);
  cpu::add_rms_norm_forward(y, inv_rms, x, residual, w, eps, stream);
}

void rms_norm_backward(TensorView dx, TensorView dw, ConstTensorView dy, ConstTensorView x, ConstTensorView w,
                       ConstTensorView inv_rms, bool accumulate, Stream& stream) {
  constexpr const char* name = "rms_norm_backward";
  expect_floating(name, "x", x, 2);
  expect(name, "dx", dx, x.shape(), x.dtype());
  if (dw) expect(name, "dw", dw, {x.dim(1)}, accumulator_of(x.dtype()));
  expect(name, "dy", dy, x.shape(), x.dtype());
  expect(name, "w", w, {x.dim(1)}, x.dtype());
  expect(name, "inv_rms", inv_rms, {x.dim(0)}, accumulator_of(x.dtype()));
  if (on_cuda(name, stream, {dx, dw, dy, x, w, inv_rms}))
    if constexpr (with_cuda) return cuda::rms_norm_backward(dx, dw, dy, x, w, inv_rms, accumulate, stream);
  cpu::rms_norm_backward(dx, dw, dy, x, w, inv_rms, accumulate, stream);
}

void rope_apply(TensorView x, ConstTensorView positions, ConstTensorView cos, ConstTensorView sin,
                bool inverse, Stream& stream) {
  constexpr const char* name = "rope_apply";
  expect_floating(name, "x", x, 3);
  expect_floating(name, "cos", cos, 2);
  NMOE_CHECK(x.dim(2) % 2 == 0, internal, "{}: head_dim {} is odd", name, x.dim(2));
  expect(name, "positions", positions, {x.dim(0)}, DType::int32);
  expect(name, "cos", cos, {cos.dim(0), x.dim(2) / 2}, accumulator_of(x.dtype()));
  expect(name, "sin", sin, cos.shape(), cos.dtype());
  if (on_cuda(name, stream, {x, positions, cos, sin}))
    if constexpr (with_cuda) return cuda::rope_apply(x, positions, cos, sin, inverse, stream);
  expect_range(name, "positions", positions, 0, cos.dim(0));
  cpu::rope_apply(x, positions, cos, sin, inverse, stream);
}

namespace {
void check_attention(const char* name, ConstTensorView q, ConstTensorView k, ConstTensorView v,
                     ConstTensorView lse, std::span<const std::int64_t> offsets) {
  expect_floating(name, "q", q, 3);
  expect_floating(name, "k", k, 3);
  expect(name, "k", k, {q.dim(0), k.dim(1), q.dim(2)}, q.dtype());
  expect(name, "v", v, k.shape(), q.dtype());
  expect(name, "lse", lse, {q.dim(0), q.dim(1)}, accumulator_of(q.dtype()));
  NMOE_CHECK(k.dim(1) > 0 && q.dim(1) % k.dim(1) == 0, internal,
             "{}: {} query heads do not divide into {} key/value heads", name, q.dim(1), k.dim(1));
  const std::int64_t first = offsets.empty() ? 0 : offsets.front(),
                     last = offsets.empty() ? 0 : offsets.back();
  NMOE_CHECK(first == 0 && last == q.dim(0), internal, "{}: offsets run from {} to {} over {} tokens", name,
             first, last, q.dim(0));
  for (std::size_t b = 0; b + 1 < offsets.size(); ++b) {
    NMOE_CHECK(offsets[b] <= offsets[b + 1], internal, "{}: offsets[{}] = {} > {}", name, b, offsets[b],
               offsets[b + 1]);
  }
}

/// Useful work of one product over the causal half of the scores: Σ over sequences of S²/2 · H · d
/// multiply-adds, 2 each.
std::int64_t attention_flops(ConstTensorView q, std::span<const std::int64_t> offsets) {
  std::int64_t pairs = 0;
  for (std::size_t b = 0; b + 1 < offsets.size(); ++b) {
    const std::int64_t length = offsets[b + 1] - offsets[b];
    pairs += length * length;
  }
  return pairs * q.dim(1) * q.dim(2);
}

}  // namespace

void attention_forward(TensorView o, TensorView lse, ConstTensorView q, ConstTensorView k, ConstTensorView v,
                       std::span<const std::int64_t> offsets, double scale, Stream& stream) {
  constexpr const char* name = "attention_forward";
  check_attention(name, q, k, v, lse, offsets);
  expect(name, "o", o, q.shape(), q.dtype());
  NMOE_CHECK(scale > 0, internal, "{}: scale {} is not positive", name, scale);
  stream.add_flops(2 * attention_flops(q, offsets));
  if (on_cuda(name, stream, {o, lse, q, k, v}))
    if constexpr (with_cuda) return cuda::attention_forward(o, lse, q, k, v, offsets, scale, stream);
  cpu::attention_forward(o, lse, q, k, v, offsets, scale, stream);
}

void attention_backward(TensorView dq, TensorView dk, TensorView dv, ConstTensorView d_o, ConstTensorView o,
                        ConstTensorView q, ConstTensorView k, ConstTensorView v, ConstTensorView lse,
                        std::span<const std::int64_t> offsets, double scale, Stream& stream) {
  constexpr const char* name = "attention_backward";
  check_attention(name, q, k, v, lse, offsets);
  expect(name, "dq", dq, q.shape(), q.dtype());
  expect(name, "dk", dk, k.shape(), q.dtype());
  expect(name, "dv", dv, k.shape(), q.dtype());
  expect(name, "d_o", d_o, q.shape(), q.dtype());
  expect(name, "o", o, q.shape(), q.dtype());
  stream.add_flops(4 * attention_flops(q, offsets));
  if (on_cuda(name, stream, {dq, dk, dv, d_o, o, q, k, v, lse}))
    if constexpr (with_cuda)
      return cuda::attention_backward(dq, dk, dv, d_o, o, q, k, v, lse, offsets, scale, stream);
  cpu::attention_backward(dq, dk, dv, d_o, o, q, k, v, lse, offsets, scale, stream);
}

namespace {
/// Demands that the sequences tile the rows of q and that their keys are rows of k. Returns their pairs of
/// query and key.
std::int64_t check_prefixed(const char* name, ConstTensorView q, ConstTensorView k,
                            std::span<const PrefixedSequence> sequences) {
  std::int64_t next = 0, pairs = 0;
  const std::int64_t rows = k.dim(0);
  for (const PrefixedSequence& s : sequences) {
    NMOE_CHECK(s.first == next && s.length >= 0 && s.prefix >= 0 && s.prefix_length >= 0 && s.own >= 0 &&
                   s.prefix + s.prefix_length <= rows && s.own + s.length <= rows,
               internal, "{}: queries {}+{} (expected from {}), prefix {}+{} and own keys {}+{} of {} rows",
               name, s.first, s.length, next, s.prefix, s.prefix_length, s.own, s.length, rows);
    next += s.length;
    pairs += s.length * (s.prefix_length + s.length / 2 + 1);
  }
  NMOE_CHECK(next == q.dim(0), internal, "{}: sequences of {} queries, q has {}", name, next, q.dim(0));
  return pairs;
}
}  // namespace

void attention_prefixed_forward(TensorView o, ConstTensorView q, ConstTensorView k, ConstTensorView v,
                                std::span<const PrefixedSequence> sequences, double scale, Stream& stream) {
  constexpr const char* name = "attention_prefixed_forward";
  expect_floating(name, "q", q, 3);
  expect_floating(name, "k", k, 3);
  expect(name, "o", o, q.shape(), q.dtype());
  expect(name, "k", k, {k.dim(0), k.dim(1), q.dim(2)}, q.dtype());
  expect(name, "v", v, k.shape(), q.dtype());
  NMOE_CHECK(k.dim(1) > 0 && q.dim(1) % k.dim(1) == 0, internal,
             "{}: {} query heads do not divide into {} key/value heads", name, q.dim(1), k.dim(1));
  NMOE_CHECK(scale > 0, internal, "{}: scale {} is not positive", name, scale);
  stream.add_flops(4 * check_prefixed(name, q, k, sequences) * q.dim(1) * q.dim(2));
  if (on_cuda(name, stream, {o, q, k, v}))
    if constexpr (with_cuda) return cuda::attention_prefixed_forward(o, q, k, v, sequences, scale, stream);
  cpu::attention_prefixed_forward(o, q, k, v, sequences, scale, stream);
}

void swiglu_forward(TensorView h, ConstTensorView gate, ConstTensorView up, Stream& stream) {
  constexpr const char* name = "swiglu_forward";
  expect_floating(name, "gate", gate, gate.shape().rank());
  expect(name, "up", up, gate.shape(), gate.dtype());
  expect(name, "h", h, gate.shape(), gate.dtype());
  if (on_cuda(name, stream, {h, gate, up}))
    if constexpr (with_cuda) return cuda::swiglu_forward(h, gate, up, stream);
  cpu::swiglu_forward(h, gate, up, stream);
}

void swiglu_backward(TensorView dgate, TensorView dup, ConstTensorView dh, ConstTensorView gate,
                     ConstTensorView up, Stream& stream) {
  constexpr const char* name = "swiglu_backward";
  expect_floating(name, "gate", gate, gate.shape().rank());
  expect(name, "up", up, gate.shape(), gate.dtype());
  expect(name, "dh", dh, gate.shape(), gate.dtype());
  expect(name, "dgate", dgate, gate.shape(), gate.dtype());
  expect(name, "dup", dup, gate.shape(), gate.dtype());
  if (on_cuda(name, stream, {dgate, dup, dh, gate, up}))
    if constexpr (with_cuda) return cuda::swiglu_backward(dgate, dup, dh, gate, up, stream);
  cpu::swiglu_backward(dgate, dup, dh, gate, up, stream);
}

void cross_entropy(TensorView losses, TensorView logits, ConstTensorView labels, double grad_scale,
                   Stream& stream) {
  constexpr const char* name = "cross_entropy";
  expect_floating(name, "logits", logits, 2);
  expect(name, "losses", losses, {logits.dim(0)}, accumulator_of(logits.dtype()));
  expect(name, "labels", labels, {logits.dim(0)}, DType::int32);
  if (on_cuda(name, stream, {losses, logits, labels}))
    if constexpr (with_cuda) return cuda::cross_entropy(losses, logits, labels, grad_scale, stream);
  expect_range(name, "labels", labels, std::numeric_limits<std::int32_t>::min(), logits.dim(1));
  cpu::cross_entropy(losses, logits, labels, grad_scale, stream);
}

void argmax_rows(TensorView columns, ConstTensorView logits, Stream& stream) {
  constexpr const char* name = "argmax_rows";
  expect_floating(name, "logits", logits, 2);
  NMOE_CHECK(logits.dim(1) > 0, internal, "{}: rows of no element", name);
  expect(name, "columns", columns, {logits.dim(0)}, DType::int32);
  if (on_cuda(name, stream, {columns, logits}))
    if constexpr (with_cuda) return cuda::argmax_rows(columns, logits, stream);
  reference::argmax_rows(columns, logits, stream);
}

void add_inplace(TensorView y, ConstTensorView x, Stream& stream) {
  constexpr const char* name = "add_inplace";
  expect_floating(name, "y", y, y.shape().rank());
  expect_floating(name, "x", x, x.shape().rank());
  expect(name, "x", x, y.shape(), x.dtype());
  if (on_cuda(name, stream, {y, x}))
    if constexpr (with_cuda) return cuda::add_inplace(y, x, stream);
  cpu::add_inplace(y, x, stream);
}

void cast(TensorView dst, ConstTensorView src, Stream& stream) {
  constexpr const char* name = "cast";
  expect_floating(name, "dst", dst, dst.shape().rank());
  expect_floating(name, "src", src, src.shape().rank());
  NMOE_CHECK(dst.num_elements() == src.num_elements(), internal, "{}: dst is {}, src is {}", name,
             dst.shape().to_string(), src.shape().to_string());
  if (on_cuda(name, stream, {dst, src}))
    if constexpr (with_cuda) return cuda::cast(dst, src, stream);
  cpu::cast(dst, src, stream);
}

void fill(TensorView x, double value, Stream& stream) {
  expect_floating("fill", "x", x, x.shape().rank());
  if (on_cuda("fill", stream, {x}))
    if constexpr (with_cuda) return cuda::fill(x, value, stream);
  cpu::fill(x, value, stream);
}

void replace_columns(TensorView y, ConstTensorView columns, ConstTensorView values, Stream& stream) {
  constexpr const char* name = "replace_columns";
  expect_floating(name, "y", y, 2);
  expect(name, "columns", columns, {columns.num_elements()}, DType::int32);
  expect(name, "values", values, columns.shape(), accumulator_of(y.dtype()));
  if (on_cuda(name, stream, {y, columns, values}))
    if constexpr (with_cuda) return cuda::replace_columns(y, columns, values, stream);
  expect_range(name, "columns", columns, 0, y.dim(1));
  reference::replace_columns(y, columns, values, stream);
}

}  // namespace nmoe::ops
