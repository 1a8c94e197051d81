#pragma once
// Kernels of the dense decoder. Conventions, shape letters and errors: ops/linear.hpp.
#include <cstdint>
#include <span>

#include "neuronmoe/tensor/stream.hpp"
#include "neuronmoe/tensor/tensor.hpp"

namespace nmoe::ops {

/// y[t] = table[ids[t]].   @param[out] y [T, D]   @param ids [T] int32, 0 <= id < V   @param table [V, D]
void embedding_forward(TensorView y, ConstTensorView ids, ConstTensorView table, Stream& stream);
/// dtable[ids[t]] += dy[t], tokens in ascending order (same bits for any thread count).   @param dtable [V,
/// D] acc
void embedding_backward(TensorView dtable, ConstTensorView dy, ConstTensorView ids, Stream& stream);

/// y = x · inv_rms · w with inv_rms = 1/sqrt(mean(x²) + eps) in acc (Zhang & Sennrich 2019).
/// @param[out] y [T, D]   @param[out] inv_rms [T] acc   @param x [T, D]   @param w [D]
void rms_norm_forward(TensorView y, TensorView inv_rms, ConstTensorView x, ConstTensorView w, double eps,
                      Stream& stream);
/// x += residual, then y = rms_norm(x), in one pass over memory; the bits of add_inplace followed by
/// rms_norm_forward. Its backward is rms_norm_backward with `accumulate`, dx being the residual's gradient.
/// @param[in,out] x [T, D]   @param residual [T, D]
void add_rms_norm_forward(TensorView y, TensorView inv_rms, TensorView x, ConstTensorView residual,
                          ConstTensorView w, double eps, Stream& stream);
/// dx (=|+=), dw += (skipped when dw is {}; rows in ascending order).   @param dw [D] acc or {}
void rms_norm_backward(TensorView dx, TensorView dw, ConstTensorView dy, ConstTensorView x, ConstTensorView w,
                       ConstTensorView inv_rms, bool accumulate, Stream& stream);

/// Applies the rotary embedding in place, rotate-half layout (Hugging Face Llama): pairs (i, i + d/2).
/// With `inverse` the rotation is undone, which is also its backward.
/// @param[in,out] x [T, H, d]   @param positions [T] int32   @param cos, sin [P, d/2] acc, P > max position
void rope_apply(TensorView x, ConstTensorView positions, ConstTensorView cos, ConstTensorView sin,
                bool inverse, Stream& stream);

/// Computes causal grouped-query attention over packed sequences: query head h uses key/value head h / (H/G).
/// Scores and softmax in acc. `offsets` [B+1] cuts T tokens into B sequences (offsets[0] = 0, last = T; may
/// be empty).
/// @param[out] o [T, H, d]   @param[out] lse [T, H] acc log-sum-exp of scaled scores
/// @param q [T, H, d]   @param k, v [T, G, d]   @param scale usually 1/sqrt(d)
void attention_forward(TensorView o, TensorView lse, ConstTensorView q, ConstTensorView k, ConstTensorView v,
                       std::span<const std::int64_t> offsets, double scale, Stream& stream);
/// Overwrites dq, dk, dv. Recomputes probabilities from lse.
void attention_backward(TensorView dq, TensorView dk, TensorView dv, ConstTensorView d_o, ConstTensorView o,
                        ConstTensorView q, ConstTensorView k, ConstTensorView v, ConstTensorView lse,
                        std::span<const std::int64_t> offsets, double scale, Stream& stream);

/// Queries of one sequence and where its keys are: each query sees the rows [prefix, prefix + prefix_length)
/// of k and v, which other sequences may see as well, then those of its own sequence up to itself, which
/// begin at row `own`.
struct PrefixedSequence {
  std::int64_t first, length;  ///< rows of q
  std::int64_t prefix, prefix_length, own;
};
/// Computes attention where keys come before the queries' own: a context that several continuations share, or
/// keys kept from earlier tokens. Heads and arithmetic as in attention_forward; no backward.
/// @param[out] o [T, H, d]   @param q [T, H, d]   @param k, v [R, G, d], any R
/// @param sequences tile the T rows of q in order; their rows of k and v lie in [0, R)
void attention_prefixed_forward(TensorView o, ConstTensorView q, ConstTensorView k, ConstTensorView v,
                                std::span<const PrefixedSequence> sequences, double scale, Stream& stream);

/// h = SiLU(gate) ⊙ up (METHOD 5 step 7).   all [T, F]
void swiglu_forward(TensorView h, ConstTensorView gate, ConstTensorView up, Stream& stream);
/// Overwrites dgate and dup.
void swiglu_backward(TensorView dgate, TensorView dup, ConstTensorView dh, ConstTensorView gate,
                     ConstTensorView up, Stream& stream);

/// Computes the next-token cross-entropy of a chunk of logits, in acc. losses[t] = log Σ exp(logits) −
/// logits[label], 0 where label < 0 (ignored). If grad_scale != 0, logits are overwritten with grad_scale ·
/// (softmax − onehot), rows of ignored labels with zeros; otherwise logits are left as they are. METHOD 6.1.
/// @param[out] losses [T] acc   @param[in,out] logits [T, V]   @param labels [T] int32
void cross_entropy(TensorView losses, TensorView logits, ConstTensorView labels, double grad_scale,
                   Stream& stream);

/// columns[t] = where row t of `logits` is largest; the lowest of equal ones. Unspecified for a row with NaN.
/// @param[out] columns [T] int32   @param logits [T, V]
void argmax_rows(TensorView columns, ConstTensorView logits, Stream& stream);

/// y += x, elementwise, any equal shapes; dtypes may differ (x is converted to y's dtype after adding in
/// acc).
void add_inplace(TensorView y, ConstTensorView x, Stream& stream);
/// dst = src converted to dst's dtype (round to nearest even). Equal element counts.
void cast(TensorView dst, ConstTensorView src, Stream& stream);
/// Sets every element to `value`.
void fill(TensorView x, double value, Stream& stream);
/// y[t, columns[u]] = values[u] in every row t, rounded to y's dtype (METHOD 1.9).
/// @param[in,out] y [T, N]   @param columns [U] int32, each once, 0 <= column < N   @param values [U] acc
void replace_columns(TensorView y, ConstTensorView columns, ConstTensorView values, Stream& stream);

}  // namespace nmoe::ops
