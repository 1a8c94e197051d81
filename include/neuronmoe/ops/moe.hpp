#pragma once
// Kernels of the mixture-of-experts layer (METHOD 5 and 6). Conventions and shape letters: ops/linear.hpp.
// Four index spaces meet here: token t, choice j (0..K-1), slot (t, j), and row n of the permuted buffers.
#include "neuronmoe/tensor/stream.hpp"
#include "neuronmoe/tensor/tensor.hpp"

namespace nmoe::ops {

/// Softmax over experts, then top-k (METHOD 5 steps 2-4): probs = softmax(logits); the K largest, descending,
/// ties to the lower expert id; weights divided by their sum unless `normalise` is false (configured k = 1).
/// @param[out] probs [T, E] acc   @param[out] weights [T, K] acc   @param[out] indices [T, K] int32
/// @param logits [T, E] acc       @pre 1 <= K <= E
void route_forward(TensorView probs, TensorView weights, TensorView indices, ConstTensorView logits,
                   bool normalise, Stream& stream);
/// Computes the gradient of the logits from that of the weights and, optionally, of the probabilities
/// (auxiliary losses). Selection is not differentiated. Overwrites dlogits.
/// @param[out] dlogits [T, E] acc   @param dweights [T, K] acc   @param dprobs [T, E] acc or {}
void route_backward(TensorView dlogits, ConstTensorView dweights, ConstTensorView dprobs,
                    ConstTensorView probs, ConstTensorView weights, ConstTensorView indices, bool normalise,
                    Stream& stream);

/// Computes the load-balancing loss of one layer and micro-batch (METHOD 6.2): E · Σ_e P_e · Σ_j f_{j,e} over
/// all T tokens. Overwrites `loss` (0 for T = 0) and adds grad_scale · dloss/dprobs to dprobs; f carries no
/// gradient. Nothing is read back from a GPU.
/// @param[out] loss [1] float64   @param[in,out] dprobs [T, E] acc or {}
void load_balancing_loss(TensorView loss, TensorView dprobs, ConstTensorView probs, ConstTensorView indices,
                         double grad_scale, Stream& stream);

/// Computes the two statistics of that loss, for sums over several micro-batches: counts[e] = choices of e,
/// over all slots; sums[e] = Σ_t probs[t, e]. Both are overwritten.   @param[out] counts, sums [E] float64
void balancing_statistics(TensorView counts, TensorView sums, ConstTensorView probs, ConstTensorView indices,
                          Stream& stream);
/// Returns the loss from statistics of `num_tokens` tokens; 0 for none.   @param counts, sums [E] float64
double balancing_loss_of(ConstTensorView counts, ConstTensorView sums, double num_tokens);
/// dprobs[t, e] += grad_scale · E/n · counts[e]/n: its gradient at each token of a micro-batch.
/// @param[in,out] dprobs [T, E] acc   @param counts [E] float64
void balancing_gradient(TensorView dprobs, ConstTensorView counts, double num_tokens, double grad_scale,
                        Stream& stream);

enum class LprForm { double_softmax, nll };
/// Computes the sum over masked tokens of the language-prior loss (METHOD 6.3): −log softmax(p_t)_0
/// (double_softmax) or −log p_{t,0} (nll). The caller divides by its means through grad_scale. Overwrites
/// `loss` and adds grad_scale · d(sum)/dprobs to dprobs.
/// @param[out] loss [1] float64   @param mask [T] uint8, 1 = token of an old language
void lpr_loss_sum(TensorView loss, TensorView dprobs, ConstTensorView probs, ConstTensorView mask,
                  LprForm form, double grad_scale, Stream& stream);

/// Computes where routed slots go: rows are ordered by the place of their expert, within an expert by slot.
/// @param[out] token_of_row [T·K] int32   @param[out] row_of_slot [T, K] int32   @param[out] counts [E]
/// int64, slots of each expert   @param indices [T, K] int32   @param place_of_expert [E] int32, a
/// permutation
void lay_out_rows(TensorView token_of_row, TensorView row_of_slot, TensorView counts, ConstTensorView indices,
                  ConstTensorView place_of_expert, Stream& stream);

/// rows[n] = x[token_of_row[n]].   @param[out] rows [N, D]   @param x [T, D], floating or int32
/// @param token_of_row [N] int32
void gather_rows(TensorView rows, ConstTensorView x, ConstTensorView token_of_row, Stream& stream);

/// y[t] (=|+=) Σ_j weights[t,j] · rows[row_of_slot[t,j]], choices taken in ascending expert id, acc
/// accumulation (METHOD 5 step 6). Slots with row −1 contribute nothing. Without weights ({}) every weight is
/// 1, which is the backward of gather_rows.
/// @param[out] y [T, D]   @param rows [N, D]   @param row_of_slot [T, K] int32   @param indices [T, K] int32
/// @param weights [T, K] acc or {}
void combine_forward(TensorView y, ConstTensorView rows, ConstTensorView row_of_slot, ConstTensorView indices,
                     ConstTensorView weights, bool accumulate, Stream& stream);
/// Does the same with the arithmetic of the reference code (METHOD 5 step 6, router.compat = release): every
/// product and every partial sum is rounded to y's type. Equals combine_forward in float32 and float64 but
/// for fused multiply-adds.
void combine_forward_rounded(TensorView y, ConstTensorView rows, ConstTensorView row_of_slot,
                             ConstTensorView indices, ConstTensorView weights, Stream& stream);
/// drows[row_of_slot[t,j]] = weights[t,j] · dy[t];  dweights[t,j] = <dy[t], rows[row_of_slot[t,j]]> (0 for
/// row −1).
void combine_backward(TensorView drows, TensorView dweights, ConstTensorView dy, ConstTensorView rows,
                      ConstTensorView row_of_slot, ConstTensorView weights, Stream& stream);

}  // namespace nmoe::ops
