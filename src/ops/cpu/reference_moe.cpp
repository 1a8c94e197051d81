// Plain loops of routing, auxiliary losses, row layout, and rows between tokens and experts.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "floating.hpp"
#include "neuronmoe/ops/backends.hpp"

namespace nmoe::ops::reference {

using cpu::acc_t;
using cpu::convert;
using cpu::to_acc;
using cpu::visit_accumulator;
using cpu::visit_floating;

namespace {
template <typename A>
void softmax_row(A* p, const A* x, std::int64_t n) {
  A largest = x[0], total = 0;
  for (std::int64_t e = 1; e < n; ++e) largest = std::max(largest, x[e]);
  for (std::int64_t e = 0; e < n; ++e) total += p[e] = std::exp(x[e] - largest);
  for (std::int64_t e = 0; e < n; ++e) p[e] /= total;
}

bool contains(const std::int32_t* list, std::int64_t n, std::int64_t value) {
  for (std::int64_t j = 0; j < n; ++j) {
    if (list[j] == value) return true;
  }
  return false;
}
}  // namespace

void route_forward(TensorView probs, TensorView weights, TensorView indices, ConstTensorView logits,
                   bool normalise, Stream&) {
  const std::int64_t rows = logits.dim(0), experts = logits.dim(1), top_k = indices.dim(1);
  visit_accumulator(logits.dtype(), [&]<typename A>() {
    for (std::int64_t t = 0; t < rows; ++t) {
      A *p = probs.data<A>() + t * experts, *w = weights.data<A>() + t * top_k;
      std::int32_t* idx = indices.data<std::int32_t>() + t * top_k;
      softmax_row(p, logits.data<A>() + t * experts, experts);
      A total = 0;
      for (std::int64_t j = 0; j < top_k; ++j) {
        std::int64_t best =
            -1;  // first of the largest left: ties go to the lower id; NaN never compares larger
        for (std::int64_t e = 0; e < experts; ++e) {
          if (!contains(idx, j, e) && (best < 0 || p[e] > p[best])) best = e;
        }
        idx[j] = static_cast<std::int32_t>(best);
        total += w[j] = p[best];
      }
      for (std::int64_t j = 0; normalise && j < top_k; ++j) w[j] /= total;
    }
  });
}

// With s = Σ_j p_j over the chosen and w_j = p_j / s: dp_j = (dw_j − Σ_i dw_i w_i) / s; without the division
// dp_j = dw_j. Then the softmax: dz_e = p_e (dp_e − Σ_f dp_f p_f).
void route_backward(TensorView dlogits, ConstTensorView dweights, ConstTensorView dprobs,
                    ConstTensorView probs, ConstTensorView weights, ConstTensorView indices, bool normalise,
                    Stream&) {
  const std::int64_t rows = probs.dim(0), experts = probs.dim(1), top_k = indices.dim(1);
  visit_accumulator(probs.dtype(), [&]<typename A>() {
    for (std::int64_t t = 0; t < rows; ++t) {
      const A *p = probs.data<A>() + t * experts, *w = weights.data<A>() + t * top_k;
      const A* dw = dweights.data<A>() + t * top_k;
      const std::int32_t* idx = indices.data<std::int32_t>() + t * top_k;
      A* dz = dlogits.data<A>() + t * experts;
      A total = 1, mean = 0;
      if (normalise) {
        total = 0;
        for (std::int64_t j = 0; j < top_k; ++j) {
          total += p[idx[j]];
          mean += dw[j] * w[j];
        }
      }
      for (std::int64_t e = 0; e < experts; ++e) dz[e] = dprobs ? dprobs.data<A>()[t * experts + e] : A(0);
      for (std::int64_t j = 0; j < top_k; ++j) dz[idx[j]] += (dw[j] - mean) / total;
      A dot = 0;
      for (std::int64_t e = 0; e < experts; ++e) dot += dz[e] * p[e];
      for (std::int64_t e = 0; e < experts; ++e) dz[e] = p[e] * (dz[e] - dot);
    }
  });
}

void balancing_statistics(TensorView counts, TensorView sums, ConstTensorView probs, ConstTensorView indices,
                          Stream&) {
  const std::int64_t rows = probs.dim(0), experts = probs.dim(1);
  double *count = counts.data<double>(), *sum = sums.data<double>();
  std::fill_n(count, experts, 0.0);
  std::fill_n(sum, experts, 0.0);
  for (std::int64_t i = 0; i < indices.num_elements(); ++i) count[indices.data<std::int32_t>()[i]] += 1.0;
  visit_accumulator(probs.dtype(), [&]<typename A>() {
    for (std::int64_t i = 0; i < rows * experts; ++i) {
      sum[i % experts] += static_cast<double>(probs.data<A>()[i]);
    }
  });
}

void balancing_gradient(TensorView dprobs, ConstTensorView counts, double num_tokens, double grad_scale,
                        Stream&) {
  const std::int64_t rows = dprobs.dim(0), experts = dprobs.dim(1);
  visit_accumulator(dprobs.dtype(), [&]<typename A>() {
    for (std::int64_t i = 0; i < rows * experts; ++i) {
      const double share = counts.data<double>()[i % experts] / num_tokens;
      dprobs.data<A>()[i] += A(grad_scale * (static_cast<double>(experts) / num_tokens * share));
    }
  });
}

void load_balancing_loss(TensorView loss, TensorView dprobs, ConstTensorView probs, ConstTensorView indices,
                         double grad_scale, Stream& stream) {
  const std::int64_t rows = probs.dim(0), experts = probs.dim(1);
  loss.data<double>()[0] = 0.0;
  if (rows == 0) return;
  std::vector<double> count(static_cast<std::size_t>(experts)), sum(count);
  const TensorView counts(count.data(), DType::float64, {experts}),
      sums(sum.data(), DType::float64, {experts});
  balancing_statistics(counts, sums, probs, indices, stream);
  const auto num_tokens = static_cast<double>(rows);
  if (dprobs) balancing_gradient(dprobs, counts, num_tokens, grad_scale, stream);
  loss.data<double>()[0] = balancing_loss_of(counts, sums, num_tokens);
}

void lpr_loss_sum(TensorView loss, TensorView dprobs, ConstTensorView probs, ConstTensorView mask,
                  LprForm form, double grad_scale, Stream&) {
  const std::int64_t rows = probs.dim(0), experts = probs.dim(1);
  double sum = 0.0;
  visit_accumulator(probs.dtype(), [&]<typename A>() {
    for (std::int64_t t = 0; t < rows; ++t) {
      if (mask.data<std::uint8_t>()[t] == 0) continue;
      const A* p = probs.data<A>() + t * experts;
      A* dp = dprobs ? dprobs.data<A>() + t * experts : nullptr;
      if (form == LprForm::nll) {
        // A probability that underflowed to 0 counts as the smallest normal number: the loss stays finite,
        // and the gradient of the logit (p·dp) is then 0 instead of 0·inf.
        const double p0 = p[0] < std::numeric_limits<A>::min() ? double{std::numeric_limits<A>::min()}
                                                               : static_cast<double>(p[0]);
        sum -= std::log(p0);
        if (dp != nullptr) dp[0] -= A(grad_scale / p0);
        continue;
      }
      double total = 0.0;
      for (std::int64_t e = 0; e < experts; ++e) total += std::exp(static_cast<double>(p[e]));
      sum += std::log(total) - static_cast<double>(p[0]);
      for (std::int64_t e = 0; dp != nullptr && e < experts; ++e) {
        const double softmax = std::exp(static_cast<double>(p[e])) / total;
        dp[e] += A(grad_scale * (softmax - (e == 0 ? 1.0 : 0.0)));
      }
    }
  });
  loss.data<double>()[0] = sum;
}

void lay_out_rows(TensorView token_of_row, TensorView row_of_slot, TensorView counts, ConstTensorView indices,
                  ConstTensorView place_of_expert, Stream&) {
  const std::int64_t slots = indices.num_elements(), experts = counts.num_elements(), top_k = indices.dim(1);
  const auto *chosen = indices.data<std::int32_t>(), *place = place_of_expert.data<std::int32_t>();
  auto* count = counts.data<std::int64_t>();
  std::fill_n(count, experts, 0);
  for (std::int64_t slot = 0; slot < slots; ++slot) ++count[chosen[slot]];
  std::vector<std::int64_t> next(static_cast<std::size_t>(experts), 0);
  for (std::int64_t e = 0; e < experts; ++e) {
    for (std::int64_t f = 0; f < experts; ++f)
      next[static_cast<std::size_t>(e)] += place[f] < place[e] ? count[f] : 0;
  }
  for (std::int64_t slot = 0; slot < slots; ++slot) {
    const std::int64_t row = next[static_cast<std::size_t>(chosen[slot])]++;
    token_of_row.data<std::int32_t>()[row] = static_cast<std::int32_t>(slot / top_k);
    row_of_slot.data<std::int32_t>()[slot] = static_cast<std::int32_t>(row);
  }
}

void gather_rows(TensorView rows, ConstTensorView x, ConstTensorView token_of_row, Stream&) {
  const std::int64_t num_rows = rows.dim(0), width = rows.dim(1);
  visit_floating(x.dtype(), [&]<typename T>() {
    for (std::int64_t n = 0; n < num_rows; ++n) {
      for (std::int64_t d = 0; d < width; ++d) {
        rows.data<T>()[n * width + d] =
            x.data<T>()[std::int64_t{token_of_row.data<std::int32_t>()[n]} * width + d];
      }
    }
  });
}

namespace {
/// Slots of token `t` in ascending order of their experts, the order in which a token's rows are summed.
std::vector<std::int64_t> slots_by_expert(ConstTensorView indices, std::int64_t t) {
  const std::int64_t top_k = indices.dim(1);
  const std::int32_t* ids = indices.data<std::int32_t>() + t * top_k;
  std::vector<std::int64_t> order(static_cast<std::size_t>(top_k));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return ids[a] < ids[b]; });
  return order;
}
}  // namespace

void combine_forward(TensorView y, ConstTensorView rows, ConstTensorView row_of_slot, ConstTensorView indices,
                     ConstTensorView weights, bool accumulate, Stream&) {
  const std::int64_t tokens = y.dim(0), width = y.dim(1), top_k = indices.dim(1);
  visit_floating(y.dtype(), [&]<typename T>() {
    using A = acc_t<T>;
    for (std::int64_t t = 0; t < tokens; ++t) {
      const std::vector<std::int64_t> order = slots_by_expert(indices, t);
      for (std::int64_t d = 0; d < width; ++d) {
        A sum = 0;
        for (const std::int64_t j : order) {
          const std::int64_t row = row_of_slot.data<std::int32_t>()[t * top_k + j];
          if (row < 0) continue;
          const A value = to_acc(rows.data<T>()[row * width + d]);
          sum += weights ? weights.data<A>()[t * top_k + j] * value : value;
        }
        T& out = y.data<T>()[t * width + d];
        out = convert<T>(accumulate ? to_acc(out) + sum : sum);
      }
    }
  });
}

void combine_forward_rounded(TensorView y, ConstTensorView rows, ConstTensorView row_of_slot,
                             ConstTensorView indices, ConstTensorView weights, Stream&) {
  const std::int64_t tokens = y.dim(0), width = y.dim(1), top_k = indices.dim(1);
  visit_floating(y.dtype(), [&]<typename T>() {
    using A = acc_t<T>;
    for (std::int64_t t = 0; t < tokens; ++t) {
      const std::vector<std::int64_t> order = slots_by_expert(indices, t);
      for (std::int64_t d = 0; d < width; ++d) {
        T sum = convert<T>(A(0));
        for (const std::int64_t j : order) {
          const std::int64_t row = row_of_slot.data<std::int32_t>()[t * top_k + j];
          if (row < 0) continue;
          const A value = to_acc(rows.data<T>()[row * width + d]);
          const T product = convert<T>(weights.data<A>()[t * top_k + j] * value);
          sum = convert<T>(to_acc(sum) + to_acc(product));
        }
        y.data<T>()[t * width + d] = sum;
      }
    }
  });
}

void combine_backward(TensorView drows, TensorView dweights, ConstTensorView dy, ConstTensorView rows,
                      ConstTensorView row_of_slot, ConstTensorView weights, Stream&) {
  const std::int64_t slots = row_of_slot.num_elements(), width = dy.dim(1), top_k = row_of_slot.dim(1);
  visit_floating(dy.dtype(), [&]<typename T>() {
    using A = acc_t<T>;
    for (std::int64_t s = 0; s < slots; ++s) {
      const std::int64_t row = row_of_slot.data<std::int32_t>()[s];
      A dot = 0;
      for (std::int64_t d = 0; row >= 0 && d < width; ++d) {
        const A grad = to_acc(dy.data<T>()[s / top_k * width + d]);
        dot += grad * to_acc(rows.data<T>()[row * width + d]);
        drows.data<T>()[row * width + d] = convert<T>(weights.data<A>()[s] * grad);
      }
      dweights.data<A>()[s] = dot;
    }
  });
}

}  // namespace nmoe::ops::reference
