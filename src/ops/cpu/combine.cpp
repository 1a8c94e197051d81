// Rows of experts summed into tokens, and the way back.
#include <algorithm>

#include "floating.hpp"
#include "lanes.hpp"
#include "neuronmoe/ops/backends.hpp"
#include "scratch.hpp"
#include "threads.hpp"

namespace nmoe::ops::cpu {

namespace {

// One term of a token's sum: a row of expert output and its weight.
template <typename T>
struct Term {
  std::int32_t expert;
  float weight;
  const T* row;
};

// y (=|+=) Σ weight · row in the order of the terms. The usual two choices stay in registers.
template <typename T>
void sum_terms(T* y, const Term<T>* terms, std::int64_t count, std::int64_t width, bool accumulate) {
  for_lanes(width, [&](std::int64_t i, auto n) {
    Lanes total{};
    for (std::int64_t j = 0; j < count; ++j) total += terms[j].weight * load_n(terms[j].row + i, n);
    if (accumulate) total += load_n(y + i, n);
    store_n(y + i, total, n);
  });
}

}  // namespace

void combine_forward(TensorView y, ConstTensorView rows, ConstTensorView row_of_slot, ConstTensorView indices,
                     ConstTensorView weights, bool accumulate, Stream& stream) {
  if (y.dtype() == DType::float64) {
    return reference::combine_forward(y, rows, row_of_slot, indices, weights, accumulate, stream);
  }
  const std::int64_t tokens = y.dim(0), width = y.dim(1), top_k = indices.dim(1);
  visit_fast(y.dtype(), [&]<typename T>() {
    T* py = y.data<T>();
    const T* pr = rows.data<T>();
    const float* pw = weights ? weights.data<float>() : nullptr;
    const auto *slot = row_of_slot.data<std::int32_t>(), *expert = indices.data<std::int32_t>();
    parallel_for(tokens, tokens * width * top_k, [&](std::int64_t t) {
      Term<T>* terms = scratch<Term<T>, Scratch::combine_terms>(top_k);
      std::int64_t count = 0;
      for (std::int64_t s = t * top_k; s < (t + 1) * top_k; ++s) {
        if (slot[s] < 0) continue;
        std::int64_t at = count++;  // insertion sort by expert: a handful of choices
        for (; at > 0 && terms[at - 1].expert > expert[s]; --at) terms[at] = terms[at - 1];
        terms[at] = {expert[s], pw != nullptr ? pw[s] : 1.0F, pr + slot[s] * width};
      }
      sum_terms(py + t * width, terms, count, width, accumulate);
    });
  });
}

void combine_backward(TensorView drows, TensorView dweights, ConstTensorView dy, ConstTensorView rows,
                      ConstTensorView row_of_slot, ConstTensorView weights, Stream& stream) {
  if (dy.dtype() == DType::float64) {
    return reference::combine_backward(drows, dweights, dy, rows, row_of_slot, weights, stream);
  }
  const std::int64_t slots = row_of_slot.num_elements(), width = dy.dim(1), top_k = row_of_slot.dim(1);
  visit_fast(dy.dtype(), [&]<typename T>() {
    const T *pg = dy.data<T>(), *pr = rows.data<T>();
    T* out = drows.data<T>();
    const float* pw = weights.data<float>();
    float* dot = dweights.data<float>();
    const auto* slot = row_of_slot.data<std::int32_t>();
    parallel_for(slots, slots * width, [&](std::int64_t s) {
      dot[s] = 0.0F;
      if (slot[s] < 0) return;
      const std::int64_t from = s / top_k * width, row = slot[s] * width;
      Lanes products{};
      for_lanes(width, [&](std::int64_t i, auto n) {
        const Lanes grad = load_n(pg + from + i, n);
        products += grad * load_n(pr + row + i, n);
        store_n(out + row + i, pw[s] * grad, n);
      });
      dot[s] = sum(products);
    });
  });
}

}  // namespace nmoe::ops::cpu
