// Routing and its auxiliary losses: [T, E] with few experts, so one thread per token in the order of the
// plain loops.
#include "device/elements.cuh"
#include "launch.hpp"
#include "neuronmoe/ops/backends.hpp"
#include "neuronmoe/tensor/device.hpp"
#include "scratch.hpp"

namespace nmoe::ops::cuda {

using namespace device;

namespace {

constexpr int threads = 128;

__device__ std::int64_t token_of_thread() {
  return std::int64_t{blockIdx.x} * threads + threadIdx.x;
}

__global__ __launch_bounds__(threads) void route_forward_kernel(float* probs, float* weights,
                                                                std::int32_t* indices, const float* logits,
                                                                std::int64_t tokens, int experts, int top_k,
                                                                bool normalise) {
  const std::int64_t t = token_of_thread();
  if (t >= tokens) return;
  const float* x = logits + t * experts;
  float *p = probs + t * experts, *w = weights + t * top_k;
  std::int32_t* chosen = indices + t * top_k;
  float largest = x[0], total = 0.0F;
  for (int e = 1; e < experts; ++e) largest = x[e] > largest ? x[e] : largest;
  for (int e = 0; e < experts; ++e) total += p[e] = expf(x[e] - largest);
  for (int e = 0; e < experts; ++e) p[e] /= total;
  total = 0.0F;
  for (int j = 0; j < top_k; ++j) {
    int best = -1;  // first of the largest left: ties go to the lower id; NaN never compares larger
    for (int e = 0; e < experts; ++e) {
      bool taken = false;
      for (int i = 0; i < j; ++i) taken = taken || chosen[i] == e;
      if (!taken && (best < 0 || p[e] > p[best])) best = e;
    }
    chosen[j] = best;
    total += w[j] = p[best];
  }
  for (int j = 0; normalise && j < top_k; ++j) w[j] /= total;
}

__global__ __launch_bounds__(threads) void route_backward_kernel(
    float* dlogits, const float* dweights, const float* dprobs, const float* probs, const float* weights,
    const std::int32_t* indices, std::int64_t tokens, int experts, int top_k, bool normalise) {
  const std::int64_t t = token_of_thread();
  if (t >= tokens) return;
  const float *p = probs + t * experts, *w = weights + t * top_k, *dw = dweights + t * top_k;
  const std::int32_t* chosen = indices + t * top_k;
  float* dz = dlogits + t * experts;
  float total = 1.0F, mean = 0.0F;
  if (normalise) {
    total = 0.0F;
    for (int j = 0; j < top_k; ++j) {
      total += p[chosen[j]];
      mean += dw[j] * w[j];
    }
  }
  for (int e = 0; e < experts; ++e) dz[e] = dprobs != nullptr ? dprobs[t * experts + e] : 0.0F;
  for (int j = 0; j < top_k; ++j) dz[chosen[j]] += (dw[j] - mean) / total;
  float dot = 0.0F;
  for (int e = 0; e < experts; ++e) dot += dz[e] * p[e];
  for (int e = 0; e < experts; ++e) dz[e] = p[e] * (dz[e] - dot);
}

/// partials[block, 2 e] = Σ p_e and [2 e + 1] = how often e was chosen, over the block's tokens.
__global__ __launch_bounds__(threads) void expert_sums_kernel(double* partials, const float* probs,
                                                              const std::int32_t* indices,
                                                              std::int64_t tokens, int experts, int top_k) {
  const std::int64_t t = token_of_thread();
  for (int e = 0; e < experts; ++e) {
    double p = 0.0, chosen = 0.0;
    if (t < tokens) {
      p = static_cast<double>(probs[t * experts + e]);
      for (int j = 0; j < top_k; ++j) chosen += indices[t * top_k + j] == e ? 1.0 : 0.0;
    }
    p = fold_block<threads>(p);
    chosen = fold_block<threads>(chosen);
    if (threadIdx.x == 0) {
      partials[(std::int64_t{blockIdx.x} * experts + e) * 2] = p;
      partials[(std::int64_t{blockIdx.x} * experts + e) * 2 + 1] = chosen;
    }
  }
}

/// counts[e] and sums[e] over all blocks, ascending; one thread per expert.
__global__ __launch_bounds__(threads) void expert_totals_kernel(double* counts, double* sums,
                                                                const double* partials, std::int64_t blocks,
                                                                int experts) {
  const std::int64_t e = token_of_thread();
  if (e >= experts) return;
  double p = 0.0, chosen = 0.0;
  for (std::int64_t b = 0; b < blocks; ++b) {
    p += partials[(b * experts + e) * 2];
    chosen += partials[(b * experts + e) * 2 + 1];
  }
  sums[e] = p;
  counts[e] = chosen;
}

__global__ __launch_bounds__(threads) void balancing_gradient_kernel(float* dprobs, const double* counts,
                                                                     double num_tokens, double grad_scale,
                                                                     std::int64_t count, int experts) {
  const std::int64_t i = token_of_thread();
  if (i >= count) return;
  const double share = counts[i % experts] / num_tokens;
  dprobs[i] += static_cast<float>(grad_scale * (experts / num_tokens * share));
}

/// partials[block] = Σ of the language-prior loss over the block's masked tokens; their gradients are added.
__global__ __launch_bounds__(threads) void lpr_kernel(double* partials, float* dprobs, const float* probs,
                                                      const std::uint8_t* mask, bool nll, double grad_scale,
                                                      std::int64_t tokens, int experts) {
  constexpr float smallest_normal = 1.17549435e-38F;
  const std::int64_t t = token_of_thread();
  double loss = 0.0;
  if (t < tokens && mask[t] != 0) {
    const float* p = probs + t * experts;
    float* dp = dprobs != nullptr ? dprobs + t * experts : nullptr;
    if (nll) {
      const double p0 = static_cast<double>(p[0] < smallest_normal ? smallest_normal : p[0]);
      loss = -log(p0);
      if (dp != nullptr) dp[0] -= static_cast<float>(grad_scale / p0);
    } else {
      double total = 0.0;
      for (int e = 0; e < experts; ++e) total += exp(static_cast<double>(p[e]));
      loss = log(total) - static_cast<double>(p[0]);
      for (int e = 0; dp != nullptr && e < experts; ++e) {
        const double softmax = exp(static_cast<double>(p[e])) / total;
        dp[e] += static_cast<float>(grad_scale * (softmax - (e == 0 ? 1.0 : 0.0)));
      }
    }
  }
  loss = fold_block<threads>(loss);
  if (threadIdx.x == 0) partials[blockIdx.x] = loss;
}

__global__ void total_kernel(double* total, const double* partials, std::int64_t blocks) {
  if (threadIdx.x != 0) return;
  double sum = 0.0;
  for (std::int64_t b = 0; b < blocks; ++b) sum += partials[b];
  *total = sum;
}

/// balancing_loss_of, by one thread.
__global__ void balancing_loss_kernel(double* loss, const double* counts, const double* sums,
                                      double num_tokens, int experts) {
  if (threadIdx.x != 0) return;
  double total = 0.0;
  for (int e = 0; e < experts; ++e)
    total += static_cast<double>(experts) * sums[e] / num_tokens * (counts[e] / num_tokens);
  *loss = total;
}

}  // namespace

void route_forward(TensorView probs, TensorView weights, TensorView indices, ConstTensorView logits,
                   bool normalise, Stream& stream) {
  launch(route_forward_kernel, grid_size(blocks_for(probs.dim(0), threads)), threads, 0, stream,
         probs.data<float>(), weights.data<float>(), indices.data<std::int32_t>(), logits.data<float>(),
         probs.dim(0), static_cast<int>(probs.dim(1)), static_cast<int>(indices.dim(1)), normalise);
}

void route_backward(TensorView dlogits, ConstTensorView dweights, ConstTensorView dprobs,
                    ConstTensorView probs, ConstTensorView weights, ConstTensorView indices, bool normalise,
                    Stream& stream) {
  launch(route_backward_kernel, grid_size(blocks_for(probs.dim(0), threads)), threads, 0, stream,
         dlogits.data<float>(), dweights.data<float>(), dprobs ? dprobs.data<float>() : nullptr,
         probs.data<float>(), weights.data<float>(), indices.data<std::int32_t>(), probs.dim(0),
         static_cast<int>(probs.dim(1)), static_cast<int>(indices.dim(1)), normalise);
}

void balancing_statistics(TensorView counts, TensorView sums, ConstTensorView probs, ConstTensorView indices,
                          Stream& stream) {
  const std::int64_t tokens = probs.dim(0), blocks = blocks_for(tokens, threads);
  const int experts = static_cast<int>(probs.dim(1));
  auto* partials = scratch<double>(stream, Scratch::partials, 2 * blocks * experts);
  launch(expert_sums_kernel, grid_size(blocks), threads, 0, stream, partials, probs.data<float>(),
         indices.data<std::int32_t>(), tokens, experts, static_cast<int>(indices.dim(1)));
  launch(expert_totals_kernel, grid_size(blocks_for(experts, threads)), threads, 0, stream,
         counts.data<double>(), sums.data<double>(), static_cast<const double*>(partials), blocks, experts);
}

void balancing_gradient(TensorView dprobs, ConstTensorView counts, double num_tokens, double grad_scale,
                        Stream& stream) {
  launch(balancing_gradient_kernel, grid_size(blocks_for(dprobs.num_elements(), threads)), threads, 0, stream,
         dprobs.data<float>(), counts.data<double>(), num_tokens, grad_scale, dprobs.num_elements(),
         static_cast<int>(dprobs.dim(1)));
}

void load_balancing_loss(TensorView loss, TensorView dprobs, ConstTensorView probs, ConstTensorView indices,
                         double grad_scale, Stream& stream) {
  const std::int64_t tokens = probs.dim(0), experts = probs.dim(1);
  if (tokens == 0) return zero(loss, stream);
  auto* memory = scratch<double>(stream, Scratch::balancing, 2 * experts);
  const TensorView counts(memory, DType::float64, {experts}, Device::cuda),
      sums(memory + experts, DType::float64, {experts}, Device::cuda);
  balancing_statistics(counts, sums, probs, indices, stream);
  if (dprobs) balancing_gradient(dprobs, counts, static_cast<double>(tokens), grad_scale, stream);
  launch(balancing_loss_kernel, 1, 32, 0, stream, loss.data<double>(), counts.data<double>(),
         sums.data<double>(), static_cast<double>(tokens), static_cast<int>(experts));
}

void lpr_loss_sum(TensorView loss, TensorView dprobs, ConstTensorView probs, ConstTensorView mask,
                  LprForm form, double grad_scale, Stream& stream) {
  const std::int64_t tokens = probs.dim(0), blocks = blocks_for(tokens, threads);
  if (tokens == 0) return zero(loss, stream);
  auto* partials = scratch<double>(stream, Scratch::partials, blocks);
  launch(lpr_kernel, grid_size(blocks), threads, 0, stream, partials, dprobs ? dprobs.data<float>() : nullptr,
         probs.data<float>(), mask.data<std::uint8_t>(), form == LprForm::nll, grad_scale, tokens,
         static_cast<int>(probs.dim(1)));
  launch(total_kernel, 1, 32, 0, stream, loss.data<double>(), static_cast<const double*>(partials), blocks);
}

}  // namespace nmoe::ops::cuda
